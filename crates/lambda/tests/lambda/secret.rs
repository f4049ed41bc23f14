//! The token from Secrets Manager, through a server that plays its Lambda extension.

use serde_json::json;

use super::rig::{Lambda, Part, Play, nobody, takes};

const ARN: &str = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:pikepole-AbCdEf";

fn secret(text: &str) -> Play {
    Play::Answer(200, json!({ "ARN": ARN, "SecretString": text }).to_string())
}

async fn lambda(directory: &str, extension_port: u16) -> Lambda {
    let port = extension_port.to_string();
    Lambda::start(&[
        ("PIKEPOLE_DIRECTORY", directory),
        ("PIKEPOLE_TOKEN_SECRET", ARN),
        ("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", &port),
        ("PIKEPOLE_LOG", "trace"),
    ])
    .await
}

#[tokio::test]
async fn it_is_read_once_for_many_events() {
    for text in ["s3cret-token", r#"{"token":"s3cret-token"}"#] {
        let (extension, directory) = (Part::start(&[secret(text)]).await, Part::start(&[takes()]).await);
        let lambda = lambda(&directory.url(), extension.address.port()).await;
        for _ in 0..3 {
            lambda.invoke("{}").await.unwrap();
        }
        let asked = extension.seen();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].line, format!("GET /secretsmanager/get?secretId={ARN}"));
        assert_eq!(asked[0].header("x-aws-parameters-secrets-token"), "s3ssion-of-lambda");
        assert!(directory.seen().iter().all(|s| s.header("authorization") == "Bearer s3cret-token"));
        let log = lambda.into_log().await;
        assert!(!log.contains("s3cret") && !log.contains("s3ssion"), "{log}");
    }
}

#[tokio::test]
async fn a_rotated_one_is_read_again_after_a_401() {
    let extension = Part::start(&[secret("s3cret-old"), secret("s3cret-new")]).await;
    let directory = Part::start(&[takes(), Play::Answer(401, String::new()), takes()]).await;
    let lambda = lambda(&directory.url(), extension.address.port()).await;
    lambda.invoke("{}").await.unwrap();
    lambda.invoke("{}").await.unwrap();
    lambda.invoke("{}").await.unwrap();
    let tokens: Vec<String> =
        directory.seen().iter().map(|s| s.header("authorization").replace("Bearer s3cret-", "")).collect();
    assert_eq!(tokens, ["old", "old", "new", "new"]);
    assert_eq!(extension.seen().len(), 2);
}

#[tokio::test]
async fn a_401_for_the_current_one_is_not_tried_again() {
    let extension = Part::start(&[secret("s3cret")]).await;
    let directory = Part::start(&[Play::Answer(401, String::new())]).await;
    let lambda = lambda(&directory.url(), extension.address.port()).await;
    let error = lambda.invoke("{}").await.unwrap_err();
    assert_eq!(error["errorType"], "Pikepole.SetUp");
    assert_eq!((directory.seen().len(), extension.seen().len()), (1, 2));
}

#[tokio::test]
async fn without_it_no_directory_is_asked() {
    let directory = Part::start(&[takes()]).await;
    let denied = Part::start(&[Play::Echo(400)]).await;
    let nobody: u16 = nobody().await.rsplit(':').next().unwrap().parse().unwrap();
    let garbage = Part::start(&[Play::Answer(200, "not ready to serve traffic, please wait".into())]).await;
    for (port, kind, words) in [
        (denied.address.port(), "Pikepole.SetUp", "may the function's role read"),
        (nobody, "Pikepole.Unavailable", "is its layer part of the function"),
        (garbage.address.port(), "Pikepole.SetUp", "neither a token nor JSON"),
    ] {
        let lambda = lambda(&directory.url(), port).await;
        let error = lambda.invoke("{}").await.unwrap_err();
        assert_eq!(error["errorType"], kind);
        assert!(error["errorMessage"].as_str().unwrap().contains(words), "{error}");
        assert!(!lambda.into_log().await.contains("s3ssion"));
    }
    assert!(directory.seen().is_empty());
}

#[tokio::test]
async fn an_extension_that_was_not_ready_is_asked_again() {
    let extension = Part::start(&[Play::Answer(400, "not ready".into()), secret("s3cret")]).await;
    let directory = Part::start(&[takes()]).await;
    let lambda = lambda(&directory.url(), extension.address.port()).await;
    lambda.invoke("{}").await.unwrap_err();
    lambda.invoke("{}").await.unwrap();
}
