use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(|name| {
        let of_lambda = OF_LAMBDA.contains(&name).then(|| "128".to_string());
        pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_string()).or(of_lambda)
    })
}

fn mistakes(pairs: &[(&str, &str)]) -> Vec<String> {
    read(pairs).expect_err("this environment is wrong").0
}

#[test]
fn an_url_is_enough() {
    let config = read(&[("PIKEPOLE_DIRECTORY", "http://10.0.0.1:8044/")]).unwrap();
    assert_eq!(config.directories[0].events, "http://10.0.0.1:8044/v1/events");
    assert_eq!(config.timeout, Duration::from_millis(2_500));
    assert!(config.token.is_none() && config.roots.is_none());
}

#[test]
fn directories_are_a_list_and_may_live_below_a_path() {
    let config = read(&[("PIKEPOLE_DIRECTORY", " http://a:1 ,http://b/pikepole/, ")]).unwrap();
    let events: Vec<String> = config.directories.iter().map(|d| d.events.to_string()).collect();
    assert_eq!(events, ["http://a:1/v1/events", "http://b/pikepole/v1/events"]);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = mistakes(&[
        ("PIKEPOLE_DIRECTORY", "ftp://a,http://b,http://b,10.0.0.1:8044,http://c?x=1"),
        ("PIKEPOLE_TOKEN", "two words"),
        ("PIKEPOLE_TIMEOUT", "soon"),
        ("PIKEPOLE_CA", "/nowhere/ca.pem"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much"),
        ("AWS_LAMBDA_RUNTIME_API", "no host/path"),
    ]);
    for start in [
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE:",
        "AWS_LAMBDA_RUNTIME_API:",
        "PIKEPOLE_DIRECTORY: URL 1:",
        "PIKEPOLE_DIRECTORY: http://b twice",
        "PIKEPOLE_DIRECTORY: URL 4:",
        "PIKEPOLE_DIRECTORY: URL 5:",
        "PIKEPOLE_TOKEN:",
        "PIKEPOLE_TIMEOUT:",
        "PIKEPOLE_CA: /nowhere/ca.pem:",
    ] {
        assert!(found.iter().any(|m| m.starts_with(start)), "{start} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[test]
fn outside_of_lambda_it_says_so() {
    let found = Config::read(|_| None).expect_err("nothing is set").0;
    assert!(found.iter().any(|m| m.starts_with("AWS_LAMBDA_RUNTIME_API:")), "{found:#?}");
    assert!(found.iter().any(|m| m.starts_with("PIKEPOLE_DIRECTORY:")), "{found:#?}");
}

#[test]
fn a_timeout_has_a_unit_and_bounds() {
    let with = |timeout| read(&[("PIKEPOLE_DIRECTORY", "http://a"), ("PIKEPOLE_TIMEOUT", timeout)]);
    assert_eq!(with("1s 500ms").unwrap().timeout, Duration::from_millis(1_500));
    for wrong in ["0s", "5", "99ms", "16m", "-1s"] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_secret_is_asked_of_the_extension() {
    let base = [("PIKEPOLE_DIRECTORY", "http://a"), ("AWS_SESSION_TOKEN", "s3ssion")];
    let with = |pairs: &[(&'static str, &'static str)]| read(&[&base, pairs].concat());
    let arn = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:pikepole/write-AbCdEf";
    let config = with(&[("PIKEPOLE_TOKEN_SECRET", arn)]).unwrap();
    let Some(TokenSource::Secret { secret, session }) = config.token else { panic!("no secret") };
    assert_eq!(secret, format!("http://localhost:2773/secretsmanager/get?secretId={arn}").as_str());
    assert!(session.is_sensitive());

    let other = with(&[("PIKEPOLE_TOKEN_SECRET", "a=b"), ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", "99")]);
    let Some(TokenSource::Secret { secret, .. }) = other.unwrap().token else { panic!("no secret") };
    assert_eq!(secret, "http://localhost:99/secretsmanager/get?secretId=a%3Db");

    assert!(with(&[("PIKEPOLE_TOKEN_SECRET", "x&versionStage=y")]).is_err());
    assert!(with(&[("PIKEPOLE_TOKEN_SECRET", "x"), ("PIKEPOLE_TOKEN", "y")]).is_err());
    let found = mistakes(&[("PIKEPOLE_DIRECTORY", "http://a"), ("PIKEPOLE_TOKEN_SECRET", "x")]);
    assert!(found[0].starts_with("AWS_SESSION_TOKEN:"), "{found:?}");
}

#[test]
fn no_mistake_and_no_debug_output_shows_a_secret() {
    let found = mistakes(&[
        ("PIKEPOLE_DIRECTORY", "http://user:s3cret@a,s3cret"),
        ("PIKEPOLE_TOKEN", "s3cret\n s3cret"),
    ]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
    let given = read(&[("PIKEPOLE_DIRECTORY", "http://a"), ("PIKEPOLE_TOKEN", "s3cret")]).unwrap();
    assert!(!format!("{given:?}").contains("s3cret"));
    let session = [("PIKEPOLE_DIRECTORY", "http://a"), ("PIKEPOLE_TOKEN_SECRET", "n")];
    let secret = read(&[&session[..], &[("AWS_SESSION_TOKEN", "s3cret")]].concat()).unwrap();
    assert!(!format!("{secret:?}").contains("s3cret"));
}

#[test]
fn authorities_come_inline_or_from_a_file() {
    let pem = rcgen::generate_simple_self_signed(["ca".to_string()]).unwrap().cert.pem();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &pem).unwrap();
    let one_line = pem.trim().replace('\n', "\\n");
    for ca in [pem.as_str(), one_line.as_str(), file.to_str().unwrap()] {
        let config = read(&[("PIKEPOLE_DIRECTORY", "https://a"), ("PIKEPOLE_CA", ca)]).unwrap();
        assert_eq!(config.roots.unwrap().len(), 1);
    }
    std::fs::write(&file, "no certificate").unwrap();
    let empty = [("PIKEPOLE_DIRECTORY", "https://a"), ("PIKEPOLE_CA", file.to_str().unwrap())];
    assert_eq!(mistakes(&empty), ["PIKEPOLE_CA: holds no certificate"]);
}
