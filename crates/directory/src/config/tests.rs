use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, |name| (name == "TOKEN").then(|| "s3cret-from-env".to_string()))
}

fn mistakes(text: &str) -> Vec<String> {
    parse(text).expect_err("this configuration is wrong").0
}

const FLEET: &str = r#"
[[fleet]]
name = "f"
dc = "d"
region = "r"
source = { kind = "file", path = "members.json" }
"#;

/// The example of the contract, with every line that is commented out there switched on.
const WHOLE: &str = r#"
[server]
listen = "127.0.0.1:8044"
tls = { cert = "c.pem", key = "k.pem", client_ca = "ca.pem" }
tokens = { read = "${TOKEN}", write = "${TOKEN}-w" }
compat_anonymous = true
[store]
kind = "redis"
path = "/var/lib/pikepole/directory"
url = "redis://127.0.0.1:5050"
mirror_keys = true
[[fleet]]
name = "logstash-mumbai"
dc = "some-dc"
region = "ap-south-1"
port = 5044
source = { kind = "aws", asg = "some-dc-asg-name", assume_role = "arn:aws:iam::123456789012:role/r" }
[aws]
endpoint_url = "http://127.0.0.1:5555"
assume_role = "arn:aws:iam::123456789012:role/x"
calls_per_second = 1
reconcile = "30s"
[guard]
max_shrink = 0.5
observe_only = false
[probe]
enabled = true
give_up = "120s"
[drain]
settle = "2s"
deadline = "90s"
[events]
sqs = ["https://sqs.ap-south-1.amazonaws.com/1234/pikepole"]
sns_topics = ["arn:aws:sns:ap-south-1:123456789012:pikepole"]
complete_hooks = true
sns_signature = "any"
[alerts]
webhook = { url = "https://hooks.example/${TOKEN}", format = "slack" }
"#;

#[test]
#[cfg(all(feature = "aws", feature = "redis"))]
fn the_whole_contract_is_understood() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.fleets[0].group().as_str(), "some-dc-asg-name");
    assert_eq!(config.server.tokens.unwrap().write.expose(), "s3cret-from-env-w");
    assert_eq!(config.events.sns_signature, SnsSignature::Any);
}

#[test]
fn the_defaults_need_only_a_fleet() {
    let config = parse(FLEET).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8044");
    assert_eq!(config.aws.reconcile, Duration::from_secs(30));
    assert_eq!(config.fleets[0].port, 5044);
    assert_eq!((config.probe, config.drain), (ProbeConfig::default(), DrainConfig::default()));
    assert!(config.events.complete_hooks);
}

#[test]
fn five_mistakes_are_reported_at_once() {
    let found = mistakes(
        r#"
[server]
listen = "localhost"
lisen = "x"
[guard]
max_shrink = 7
[aws]
reconcile = "fast"
[[fleet]]
name = "a/b"
dc = "d"
region = "r"
source = { kind = "file" }
"#,
    );
    for name in [
        "server.listen:",
        "server.lisen:",
        "guard.max_shrink:",
        "aws.reconcile:",
        "fleet[0].name:",
        "fleet[0].source.path:",
    ] {
        assert!(found.iter().any(|m| m.starts_with(name)), "{name} is missing in {found:#?}");
    }
    assert!(found.iter().any(|m| m.contains("did you mean \"listen\"?")), "{found:#?}");
}

#[test]
fn two_fleets_must_differ_in_name_and_in_place() {
    let found = mistakes(&format!("{FLEET}{FLEET}"));
    assert!(found.iter().any(|m| m.contains("two fleets are called \"f\"")), "{found:?}");
    assert!(found.iter().any(|m| m.contains("share dc \"d\" and region \"r\"")), "{found:?}");
}

#[test]
fn an_open_port_needs_tokens() {
    let open = format!("[server]\nlisten = \"0.0.0.0:8044\"\n{FLEET}");
    assert!(mistakes(&open)[0].starts_with("server.tokens: required"));
    assert!(parse(&open.replace("8044\"", "8044\"\ninsecure = true")).is_ok());
}

#[test]
fn secrets_stay_secret() {
    let text = format!("[server]\ntokens = {{ read = \"${{TOKEN}}\", write = \"${{TOKEN}}\" }}\n{FLEET}");
    assert!(!format!("{:?}", parse(&text).unwrap()).contains("s3cret"));
    let wrong = format!(
        "[store]\nkind = \"redis\"\nurl = \"${{TOKEN}}\"\n[server]\ntokens = \"${{TOKEN}}\"\n{FLEET}"
    );
    assert!(!format!("{:?}", mistakes(&wrong)).contains("s3cret"));
}

#[test]
fn a_missing_variable_is_named() {
    let text = format!("[server]\ntokens = {{ read = \"${{NOPE}}\", write = \"abcdefgh\" }}\n{FLEET}");
    assert_eq!(mistakes(&text), ["server.tokens.read: the environment has no variable NOPE"]);
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let found = mistakes("[server\nlisten = 1");
    assert!(found[0].contains("line 1"), "{found:?}");
}

/// The TOML blocks of a page.
fn examples(page: &str) -> Vec<String> {
    let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_string());
    blocks.collect()
}

#[test]
#[cfg(feature = "aws")]
fn the_examples_of_the_docs_are_configurations() {
    let pages = [include_str!("../../../../README.md"), include_str!("../../../../docs/configuration.md")]
        .map(examples);
    let is_ours = |text: &String| text.contains("[[fleet]]");
    let examples: Vec<String> = pages.into_iter().flatten().filter(is_ours).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let example: String = example.lines().map(|line| format!("{}\n", line.trim())).collect();
        parse(&example).unwrap_or_else(|e| panic!("{e}\n{example}"));
    }
    let sample = include_str!("../../../../deploy/directory.toml");
    Config::parse(sample, |name| Some(format!("s3cret-{name}"))).unwrap_or_else(|e| panic!("{e}"));
}
