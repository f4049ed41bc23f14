mod reload;

use std::process::Command;

use super::*;

fn roster(members: &[(&str, &str, v1::MemberState)]) -> v1::Roster {
    let member = |(id, address, state): &(&str, &str, v1::MemberState)| v1::Member {
        instance_id: (*id).into(),
        address: address.parse().unwrap(),
        zone: Some("ap-south-1a".into()),
        state: *state,
    };
    v1::Roster {
        fleet: "logstash-mumbai".into(),
        dc: "some-dc".into(),
        region: "ap-south-1".into(),
        revision: 1_763_800_000_123,
        published_at: pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(0)),
        members: members.iter().map(member).collect(),
    }
}

fn usual() -> v1::Roster {
    use v1::MemberState::{Active, Draining, LastResort};
    roster(&[
        ("i-0a", "10.0.0.10:5044", Active),
        ("i-0b", "10.0.0.9:5044", Active),
        ("i-0c", "[fd00::1]:5044", Active),
        ("i-0d", "10.0.0.4:5044", Draining),
        ("i-0e", "10.0.0.5:5044", LastResort),
    ])
}

fn many(count: u32) -> v1::Roster {
    let mut roster = roster(&[]);
    roster.members = (0..count)
        .map(|n| v1::Member {
            instance_id: format!("i-{n:017x}"),
            address: (std::net::Ipv4Addr::from(0x0a00_0000 + n), 5044).into(),
            zone: None,
            state: v1::MemberState::Active,
        })
        .collect();
    roster
}

fn env() -> Variables {
    Arc::new(|name| match name {
        "PASSWORD" => Some("s3cret-passw0rd".into()),
        "NASTY" => Some("a'b\"c\\d\n\u{7f}\u{85}\u{2028}é😀 $(x) `y`: [z] #".into()),
        _ => None,
    })
}

fn template(text: &str) -> Template {
    Template { name: "t.j2".into(), text: text.into() }
}

fn render(text: &str) -> Result<String, String> {
    template(text).render(&usual(), &env()).map(|r| r.text).map_err(|e| e.0)
}

fn builtin(name: &str, roster: &v1::Roster) -> String {
    Template::load(&Source::Builtin(name.into())).unwrap().render(roster, &env()).unwrap().text
}

const HOSTS: [&str; 3] = ["10.0.0.10:5044", "10.0.0.9:5044", "[fd00::1]:5044"];

#[test]
fn a_template_sees_the_roster() {
    let text = "{{ hosts|join(',') }} {{ fleet }} {{ dc }} {{ region }} {{ revision }} {{ env.PASSWORD }} \
                {% for m in members if m.state == 'draining' %}{{ m.instance_id }}@{{ m.zone }}/{{ m.ip }}/{{ m.port }}{% endfor %}";
    assert_eq!(
        render(text).unwrap(),
        "10.0.0.10:5044,10.0.0.9:5044,[fd00::1]:5044 logstash-mumbai some-dc ap-south-1 1763800000123 \
         s3cret-passw0rd i-0d@ap-south-1a/10.0.0.4/5044"
    );
}

#[test]
fn an_unknown_variable_is_named_with_line_and_column() {
    assert_eq!(render("a\nb {{ hots }}").unwrap_err(), "t.j2:2:6: undefined value: \"hots\"");
    let nested = render("{% for m in members %}\n  {{ m.adress }}\n{% endfor %}").unwrap_err();
    assert!(nested.starts_with("t.j2:2:6: undefined value"), "{nested}");
    assert!(render("{{ env.NOPE }}").unwrap_err().contains("env.NOPE"));
    assert_eq!(render("{{ env.NOPE|default('x') }}").unwrap(), "x");
}

#[test]
fn a_template_that_does_not_compile_says_where() {
    let error = render("ok\n{% for x in hosts %}").unwrap_err();
    assert!(error.starts_with("t.j2:2") && error.contains("syntax error"), "{error}");
    let error = render("{{ hosts|nope }}").unwrap_err();
    assert!(error.starts_with("t.j2:1") && error.contains("nope"), "{error}");
}

#[test]
fn a_template_that_never_ends_runs_out_of_fuel() {
    let r = "range(100000)";
    let text = format!("{{% for a in {r} %}}{{% for b in {r} %}}{{% endfor %}}{{% endfor %}}");
    let error = render(&text).unwrap_err();
    assert!(error.contains("does not end"), "{error}");
    let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    let error = render(recursion).unwrap_err();
    assert!(error.starts_with("t.j2:1") && error.contains("recursion"), "{error}");
}

#[test]
fn a_template_that_floods_is_stopped() {
    let text = "{% set x = 'x' * 100000 %}{% for a in range(100000) %}{{ x }}{% endfor %}";
    let error = render(text).unwrap_err();
    assert!(error.contains("longer than"), "{error}");
}

#[test]
fn no_value_of_the_environment_is_in_an_error() {
    for text in [
        "{{ hosts|sort(**{env.PASSWORD: 1}) }}", // names the argument that nobody knows
        "{{ env.PASSWORD|int }}",
        "{{ env.PASSWORD|nope }}",
        "{{ {}[env.PASSWORD].x }}",
        "{{ 1 + env.PASSWORD }}",
    ] {
        let error = render(text).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn a_filter_writes_what_its_language_reads_back() {
    let nasty = env()("NASTY").unwrap();
    let yaml = render("k: {{ [env.NASTY, 1, true, none, {'a': env.NASTY}]|yaml }}").unwrap();
    let parsed = &yaml_rust2::YamlLoader::load_from_str(&yaml).unwrap()[0]["k"];
    assert_eq!((parsed[0].as_str(), parsed[4]["a"].as_str()), (Some(&*nasty), Some(&*nasty)), "{yaml}");
    assert_eq!((parsed[1].as_i64(), parsed[2].as_bool(), parsed[3].is_null()), (Some(1), Some(true), true));
    let toml = render("k = {{ [env.NASTY, 'b']|toml }}\nm = {{ {'a': 1.5}|toml }}").unwrap();
    let parsed: toml::Table = toml.parse().unwrap_or_else(|e| panic!("{e} {toml}"));
    assert_eq!(parsed["k"][0].as_str(), Some(&*nasty));
    assert_eq!(parsed["m"]["a"].as_float(), Some(1.5));
    let json = render("{{ [env.NASTY, {'a': [1, none]}]|json }}").unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e} {json}"));
    assert_eq!(parsed[0].as_str(), Some(&*nasty));
    let shell = render("printf '%s|' {{ [env.NASTY, 'b c']|shell }}").unwrap();
    let ran = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("{nasty}|b c|"));
}

#[test]
fn a_filter_refuses_what_its_language_cannot_say() {
    for text in ["{{ [none]|toml }}", "{{ [[1]]|shell }}", "{{ nope|yaml }}", "{{ {1: 2}|json }}"] {
        render(text).unwrap_err();
    }
}

#[test]
fn the_templates_for_beats_are_yaml() {
    for name in ["filebeat", "logstash-output"] {
        for (roster, count) in [(usual(), 3), (many(5000), 5000), (many(0), 0)] {
            let text = builtin(name, &roster);
            let parsed = yaml_rust2::YamlLoader::load_from_str(&text).unwrap();
            let hosts = parsed[0]["output.logstash"]["hosts"].as_vec().unwrap();
            assert_eq!(hosts.len(), count, "{name}");
            if count == 3 {
                assert_eq!(hosts.iter().map(|h| h.as_str().unwrap()).collect::<Vec<_>>(), HOSTS);
            }
        }
    }
}

#[test]
fn the_template_for_vector_is_toml_with_a_sink_a_collector() {
    for (roster, count) in [(usual(), 3), (many(300), 300), (many(0), 0)] {
        let text = builtin("vector", &roster);
        let parsed: toml::Table = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
        let sinks = parsed.get("sinks").map_or(0, |s| s.as_table().unwrap().len());
        assert_eq!(sinks, count);
        assert_eq!(parsed["transforms"]["pikepole_route"]["route"].as_table().unwrap().len(), count);
    }
}

#[test]
fn the_templates_for_json_are_json() {
    let hosts: Vec<String> = serde_json::from_str(&builtin("hosts-json", &usual())).unwrap();
    assert_eq!(hosts, HOSTS);
    let groups: Vec<v1::SdGroup> = serde_json::from_str(&builtin("prometheus-file-sd", &usual())).unwrap();
    assert_eq!(groups.len(), 5);
    assert_eq!(groups[3].targets, ["10.0.0.4:5044"]);
    assert_eq!(groups[3].labels["__meta_pikepole_state"], "draining");
    assert_eq!(groups[3].labels.len(), 6);
    assert_eq!(builtin("prometheus-file-sd", &many(0)).split_whitespace().collect::<String>(), "[]");
}

/// Has the program itself read the rendered file, in a folder of its own.
fn accepts(command: &str, args: &[&str], files: &[(&str, &str)]) {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, text) in files {
        let text = text.replace("@FOLDER@", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let ran = Command::new(command).args(args).current_dir(folder.path()).output();
    let ran = ran.unwrap_or_else(|e| panic!("{command}: {e}; ./scripts/test --setup installs it"));
    assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn haproxy_takes_its_template() {
    for roster in [usual(), many(300), many(0)] {
        accepts("/usr/sbin/haproxy", &["-c", "-f", "h.cfg"], &[("h.cfg", &builtin("haproxy", &roster))]);
    }
}

#[test]
fn nginx_takes_its_template() {
    const MAIN: &str = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\npid @FOLDER@/pid;\n\
                        error_log stderr;\nevents {}\ninclude @FOLDER@/stream.conf;\n";
    for roster in [usual(), many(300), many(0)] {
        let stream = builtin("nginx-stream", &roster);
        let args = ["-t", "-p", ".", "-c", "main.conf"];
        accepts("/usr/sbin/nginx", &args, &[("main.conf", MAIN), ("stream.conf", &stream)]);
    }
}

/// Lines of a golden file after its header, which says how far it can be trusted.
fn golden(text: &str) -> String {
    text.lines().skip_while(|l| l.starts_with("##")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn what_no_program_is_at_hand_for_is_as_it_was_reviewed() {
    let cases = [
        ("filebeat", include_str!("golden/filebeat.yml")),
        ("logstash-output", include_str!("golden/logstash-output.yml")),
        ("fluent-bit", include_str!("golden/fluent-bit.conf")),
        ("vector", include_str!("golden/vector.toml")),
    ];
    for (name, expected) in cases {
        assert!(expected.starts_with("## Not checked by the program itself"), "{name}");
        assert_eq!(builtin(name, &usual()), golden(expected), "{name}");
    }
}

#[test]
fn no_template_of_ours_depends_on_the_revision() {
    let mut later = usual();
    later.revision += 1;
    for name in builtin::names() {
        assert_eq!(builtin(name, &usual()), builtin(name, &later), "{name}");
    }
}

#[test]
fn every_template_of_ours_copes_with_5000_members() {
    for name in builtin::names() {
        let text = builtin(name, &many(5000));
        assert!(text.contains("10.0.19.135:5044") || text.contains("host 10.0.19.135"), "{name}");
    }
}

#[test]
fn a_file_that_is_no_template_is_an_error() {
    let folder = tempfile::TempDir::new().unwrap();
    let long = folder.path().join("long");
    std::fs::write(&long, " ".repeat(1024 * 1024 + 1)).unwrap();
    std::fs::write(folder.path().join("bytes"), [0xff, 0xfe]).unwrap();
    for (path, words) in [
        (long, "longer than"),
        (folder.path().join("bytes"), "UTF-8"),
        (folder.path().join("absent"), "No such file"),
        (folder.path().into(), "not a file"),
    ] {
        let error = Template::load(&Source::File(path)).unwrap_err();
        assert!(error.0.contains(words), "{error}");
    }
}
