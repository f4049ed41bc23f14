//! The start: what is wrong is said at once, in the log and to Lambda.

use super::rig::{Lambda, within};

#[tokio::test]
async fn every_mistake_is_reported_at_init() {
    let mut lambda = Lambda::start(&[
        ("PIKEPOLE_DIRECTORY", "http://user:s3cret@directory"),
        ("PIKEPOLE_TIMEOUT", "soon"),
        ("PIKEPOLE_CA", "/nowhere/ca.pem"),
    ])
    .await;
    let error = within("the init error", lambda.init_errors.recv()).await.unwrap();
    assert_eq!(error["errorType"], "Pikepole.Configuration");
    let (code, log) = lambda.ended().await;
    assert_eq!(code, Some(2));
    let told = error["errorMessage"].as_str().unwrap();
    for name in ["PIKEPOLE_DIRECTORY: URL 1", "PIKEPOLE_TIMEOUT", "PIKEPOLE_CA: /nowhere/ca.pem"] {
        assert!(told.contains(name), "{told}");
        assert!(log.contains(name), "{log}");
    }
    assert!(!format!("{told}{log}").contains("s3cret"), "{log}");
}

#[tokio::test]
async fn outside_of_lambda_it_ends_with_a_sentence() {
    let mut command = super::rig::function("x", &[]);
    command.env_clear();
    let output = within("its end", command.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("this program is started by AWS Lambda") && !log.contains("panicked"), "{log}");
}
