use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, |name| match name {
        "TOKEN" | "PIKEPOLE_READ" => Some("s3cret-from-env".into()),
        "HOSTNAME" => Some("proxy-1".into()),
        _ => None,
    })
}

fn mistakes(text: &str) -> Vec<String> {
    parse(text).expect_err("this configuration is wrong").0
}

const DIRECTORY: &str = "[directory]\nurls = [\"http://127.0.0.1:8044\"]\nfleet = \"f\"\n";
const RENDER: &str = "[[render]]\ntemplate = \"builtin:hosts-json\"\noutput = \"/tmp/x.json\"\n";

#[test]
fn the_least_configuration_has_sound_defaults() {
    let config = parse(&format!("{DIRECTORY}{RENDER}")).unwrap();
    assert_eq!(config.directory.wait, Duration::from_secs(55));
    assert_eq!(config.agent.status.unwrap().to_string(), "127.0.0.1:8045");
    assert_eq!(config.agent.id, host_name());
    let render = &config.renders[0];
    assert_eq!((render.quiet, render.timeout), (Duration::from_secs(2), Duration::from_secs(30)));
    assert_eq!(render.spacing, Duration::ZERO, "nothing is reloaded");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = mistakes(
        r#"
[directory]
urls = ["localhost"]
fleet = "f"
dc = "d"
cert = "c.pem"
[agent]
status = "here"
stat = "x"
[[render]]
template = "builtin:nope"
output = "/tmp/x"
check = ["nginx", "-t"]
mode = "9"
alive = ["true"]
relod = ["x"]
[[render]]
template = "t"
output = "/tmp/y"
[[render]]
template = "t"
output = "/tmp/y"
[relay]
listen = "5044"
tls = { cert = "c.pem" }
[[tail]]
paths = []
[spool]
max_bytes = "1MiB"
when_full = "drop"
commit_every = "1m"
commit_bytes = "1GiB"
[collectors]
compression = 11
[disk_guard]
paths = ["/", "logs", "/var/log", "/var/log/kong"]
min_free = "1.5GiB"
policy = "delete"
protect = ["audit/*", "x["]
rotated = ["[", ""]
every = "2h"
setle = "1m"
"#,
    );
    for name in [
        "directory.urls:",
        "directory.fleet:",
        "directory.cert:",
        "agent.status:",
        "agent.stat:",
        "render[0].template:",
        "render[0].check:",
        "render[0].mode:",
        "render[0].alive:",
        "render[0].relod: unknown key (did you mean \"reload\"?)",
        "render.output: two",
        "relay.listen: \"5044\" is not an address",
        "relay.tls.key: required",
        "tail[0].paths: required",
        "spool.max_bytes: \"1MiB\" is not a size of at least 16MiB",
        "spool.when_full: \"drop\" is not \"block\" or \"drop_oldest\"",
        "spool.commit_every: \"1m\" is not a duration from 1ms to 5s",
        "spool.commit_bytes: \"1GiB\" is not a size of at least 64KiB and at most 64MiB",
        "collectors.compression:",
        "disk_guard.paths: each must be a whole path",
        "disk_guard.paths: one of them is inside another",
        "disk_guard.min_free: \"1.5GiB\" is not a size",
        "disk_guard.policy: \"delete\" is not one of alert, compress_rotated",
        "disk_guard.protect: a glob with / must be a whole path",
        "disk_guard.rotated: must not be empty",
        "disk_guard.every:",
        "disk_guard.setle: unknown key (did you mean \"settle\"?)",
    ] {
        assert!(found.iter().any(|m| m.starts_with(name)), "{name} is missing in {found:#?}");
    }
}

#[test]
fn secrets_stay_secret() {
    let text = format!("{DIRECTORY}token = \"${{TOKEN}}\"\n{RENDER}");
    assert!(!format!("{:?}", parse(&text).unwrap()).contains("s3cret"));
    let wrong =
        "[directory]\nurls = [\"${TOKEN}\"]\nfleet = \"${TOKEN}/x\"\n[agent]\nstatus = \"${TOKEN}\"\n";
    assert!(!format!("{:?}", mistakes(wrong)).contains("s3cret"));
}

#[test]
fn files_with_one_reload_are_one_unit() {
    let reload = "reload = [\"systemctl\", \"restart\", \"filebeat\"]\n";
    let file = |n: u8| format!("[[render]]\ntemplate = \"t\"\noutput = \"/tmp/{n}\"\n");
    let text = format!("{DIRECTORY}{}{reload}{}{}{}{reload}", file(0), file(1), file(2), file(3));
    assert_eq!(parse(&text).unwrap().units(), [vec![0, 3], vec![1], vec![2]]);
}

#[test]
fn whether_a_unit_of_systemd_is_alive_need_not_be_configured() {
    let alive = |lines: &str| {
        let config = parse(&format!("{DIRECTORY}{RENDER}{lines}")).unwrap();
        config.renders[0].alive.as_ref().map(|command| command.0.join(" "))
    };
    for verb in ["restart", "reload", "reload-or-restart", "try-restart"] {
        let asked = alive(&format!("reload = [\"systemctl\", \"{verb}\", \"filebeat\"]\n"));
        assert_eq!(asked.as_deref(), Some("systemctl is-active --quiet filebeat"));
    }
    let path = alive("reload = [\"/bin/systemctl\", \"restart\", \"a.service\"]\n");
    assert_eq!(path.as_deref(), Some("/bin/systemctl is-active --quiet a.service"));
    let restart = "reload = [\"systemctl\", \"restart\", \"filebeat\"]\n";
    assert_eq!(alive(&format!("{restart}alive = [\"pgrep\", \"x\"]\n")).as_deref(), Some("pgrep x"));
    for none in [
        &format!("{restart}alive = []\n"),
        "",
        "reload = [\"nginx\", \"-s\", \"reload\"]\n",
        "reload = [\"systemctl\", \"daemon-reload\"]\n",
        "reload = [\"systemctl\", \"restart\", \"a\", \"b\"]\n",
        "reload = [\"systemctl\", \"restart\", \"--all\"]\n",
    ] {
        assert_eq!(alive(none), None, "{none}");
    }
}

#[test]
fn a_place_is_as_good_as_a_name() {
    let text =
        format!("[directory]\nurls = [\"https://a\", \"https://b\"]\ndc = \"d\"\nregion = \"r\"\n{RENDER}");
    let place = Target::Place { dc: "d".into(), region: "r".into() };
    assert_eq!(parse(&text).unwrap().directory.target, place);
    assert!(
        mistakes(&format!("[directory]\nurls = [\"https://a\"]\ndc = \"d\"\n{RENDER}"))[0].contains("region")
    );
}

/// The TOML blocks of a page.
fn examples(page: &str) -> Vec<&str> {
    page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_examples_of_the_docs_are_configurations() {
    let page = examples(include_str!("../../../../docs/agent.md"));
    assert_eq!(page.len(), 1);
    let whole: String = page[0].lines().map(|l| format!("{}\n", l.trim_start_matches("# "))).collect();
    let sample = include_str!("../../../../deploy/agent.toml");
    for example in [page[0], &whole, sample] {
        parse(example).unwrap_or_else(|e| panic!("{e}\n{example}"));
    }
    for key in
        ["check", "reload", "alive", "alive_after", "spacing", "quiet", "timeout", "allow_empty", "mode"]
    {
        assert!(whole.contains(&format!("\n{key} = ")), "docs/agent.md does not tell of {key}");
    }
}

#[test]
fn the_examples_of_the_other_pages_are_configurations() {
    let pages = [
        include_str!("../../../../README.md"),
        include_str!("../../../../docs/relay.md"),
        include_str!("../../../../docs/tail.md"),
        include_str!("../../../../docs/balance.md"),
        include_str!("../../../../docs/migration.md"),
    ];
    let is_ours = |text: &&str| {
        ["[relay]", "[[tail]]", "[collectors]", "[[render]]"].iter().any(|part| text.contains(part))
    };
    let found: Vec<&str> = pages.iter().flat_map(|page| examples(page)).filter(is_ours).collect();
    assert!(found.len() >= 5, "{found:?}");
    for example in found {
        let is_key = |line: &str| line.starts_with("# ") && line.contains(" = ");
        let uncommented = |line: &str| format!("{}\n", if is_key(line) { &line[2..] } else { line });
        for text in [example.to_string(), example.lines().map(uncommented).collect()] {
            let directory = if text.contains("[directory]") { "" } else { DIRECTORY };
            let spool = if text.contains("[spool]") { "" } else { "[spool]\n" };
            let text = format!("{directory}{spool}{text}");
            parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        }
    }
}

#[test]
fn every_key_that_was_agreed_on_is_accepted() {
    let mut text = String::new();
    for line in include_str!("tests/every-key.toml").lines() {
        // Optional keys are commented out, several on a line; what follows them is about them.
        let line = line.strip_prefix("# ").unwrap_or(line);
        let keys = line.split("  #").next().unwrap_or(line);
        text.extend(keys.split("; ").map(|key| format!("{key}\n")));
    }
    let config = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(config.guard.is_some() && config.log_path.is_some());
    let alive = config.renders[0].alive.as_ref().unwrap();
    assert_eq!(alive.0, ["systemctl", "is-active", "--quiet", "filebeat"], "a shipper that is down is told");
}

#[test]
fn a_disk_guard_only_tells_unless_it_is_asked_for_more() {
    let text =
        format!("{DIRECTORY}{RENDER}[disk_guard]\npaths = [\"/var/log/kong\"]\nmin_free = \"10GiB\"\n");
    let guard = parse(&text).unwrap().guard.unwrap();
    assert_eq!((guard.policy, guard.min_free), (Policy::Alert, 10 << 30));
    assert_eq!((guard.every, guard.settle), (Duration::from_secs(5), Duration::from_secs(60)));
    assert_eq!(guard.own, [PathBuf::from("/tmp/x.json"), "/var/lib/pikepole/agent".into()]);
    let with_spool = parse(&format!("{text}[spool]\npath = \"/var/log/spool\"")).unwrap().guard.unwrap();
    assert!(with_spool.own.contains(&"/var/log/spool".into()), "{:?}", with_spool.own);
    assert!(parse(&format!("{DIRECTORY}{RENDER}")).unwrap().guard.is_none());
    for name in ["access.log.1", "access.log.2.gz", "access.log-20261122", "error.log.old"] {
        assert!(guard.rotated.matches(Path::new(name)) && !guard.live.matches(Path::new(name)), "{name}");
    }
    for name in ["access.log", "app-1.2.log", "data.db", "log.1"] {
        assert!(!guard.rotated.matches(Path::new(name)), "{name}");
    }
}

#[test]
fn a_glob_is_about_the_name_or_about_the_whole_path() {
    let text = format!(
        "{DIRECTORY}{RENDER}[disk_guard]\npaths = [\"/l\"]\nmin_free = \"1GB\"\n\
         protect = [\"audit*\", \"/l/keep/*\", \"**/legal\"]\n"
    );
    let protect = parse(&text).unwrap().guard.unwrap().protect;
    for path in ["/l/audit.log", "/l/x/audit.log.1", "/l/keep/a", "/l/x/legal"] {
        assert!(protect.matches(Path::new(path)), "{path}");
    }
    for path in ["/l/access.log", "/l/keep/a/b", "/l/x/keep/a"] {
        assert!(!protect.matches(Path::new(path)), "{path}");
    }
}

#[test]
fn a_log_path_needs_one_word_and_has_sound_defaults() {
    let config = parse(&format!("{DIRECTORY}[agent]\nstate = \"/s\"\n[relay]\n")).unwrap();
    let path = config.log_path.unwrap();
    let relay = path.relay.unwrap();
    assert_eq!((relay.listen.to_string().as_str(), relay.max_connections), ("127.0.0.1:5044", 64));
    let spool = path.spool;
    assert_eq!(
        (spool.path.to_str().unwrap(), spool.max_bytes, spool.min_free),
        ("/s/spool", 10 << 30, 1 << 30)
    );
    assert!(spool.fsync && !spool.drop_oldest);
    assert_eq!((path.collectors.window, path.collectors.compression), (2048, 3));

    let left = parse(&format!(
        "{DIRECTORY}[spool]\npath = \"/p\"\nwhen_full = \"drop_oldest\"\ndurability = \"none\"\n"
    ));
    let left = left.unwrap().log_path.expect("what is left in the spool is delivered");
    assert!(left.relay.is_none() && left.tails.is_empty() && left.spool.drop_oldest && !left.spool.fsync);
    assert_eq!(left.spool.path.to_str(), Some("/p"));
}

#[test]
fn nothing_to_do_is_a_mistake_and_so_are_collectors_that_get_nothing() {
    assert_eq!(mistakes(DIRECTORY), ["render: nothing to do: add [[render]], [relay] or [[tail]]"]);
    let found = mistakes(&format!("{DIRECTORY}{RENDER}[collectors]\n"));
    assert_eq!(found, ["collectors: only with [relay], [[tail]] or [spool]"]);
}
