use super::*;

const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:pikepole";
const FILE: &str = "/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem";

fn topic(text: &str) -> TopicArn {
    text.parse().unwrap()
}

fn taken(url: &str) -> bool {
    CertUrl::parse(url, &topic(TOPIC)).is_some()
}

#[test]
fn the_certificate_of_the_topics_region_is_taken() {
    assert!(taken(&format!("https://sns.us-east-1.amazonaws.com{FILE}")));
    let china = topic("arn:aws-cn:sns:cn-north-1:123456789012:t");
    assert!(CertUrl::parse(&format!("https://sns.cn-north-1.amazonaws.com.cn{FILE}"), &china).is_some());
    let gov = topic("arn:aws-us-gov:sns:us-gov-west-1:123456789012:t");
    assert!(CertUrl::parse(&format!("https://sns.us-gov-west-1.amazonaws.com{FILE}"), &gov).is_some());
}

#[test]
fn every_trick_with_the_host_is_refused() {
    for host in [
        "https://sns.s3-us-west-2.amazonaws.com",
        "https://sns.s3.amazonaws.com",
        "https://sns.s3-us-east-1.amazonaws.com",
        "https://sns.evil.com",
        "https://sns.us-east-1.amazonaws.com.evil.com",
        "https://evil.com",
        "https://us-east-1.amazonaws.com",
        "https://sns.amazonaws.com",
        "https://sqs.us-east-1.amazonaws.com",
        "https://evil.sns.us-east-1.amazonaws.com",
        "https://sns-us-east-1.amazonaws.com",
        "https://snsXus-east-1.amazonaws.com",
        "https://sns.us-west-2.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com.cn",
        "https://sns.us-east-1.amazonaws.co",
        "https://user@sns.us-east-1.amazonaws.com",
        "https://user:password@sns.us-east-1.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com@evil.com",
        "https://sns.us-east-1.amazonaws.com:443",
        "https://sns.us-east-1.amazonaws.com:8443",
        "https://sns.us-east-1.amazonaws.com:",
        "https://sns.us-east-1.amazonaws.com.",
        "https://SNS.us-east-1.amazonaws.com",
        "https://sns.US-EAST-1.amazonaws.com",
        "HTTPS://sns.us-east-1.amazonaws.com",
        "http://sns.us-east-1.amazonaws.com",
        "ftp://sns.us-east-1.amazonaws.com",
        "//sns.us-east-1.amazonaws.com",
        "sns.us-east-1.amazonaws.com",
        "https:/sns.us-east-1.amazonaws.com",
        "https:///sns.us-east-1.amazonaws.com",
        "https:\\\\sns.us-east-1.amazonaws.com",
        "https://evil.com\\sns.us-east-1.amazonaws.com",
        "https://evil.com\\@sns.us-east-1.amazonaws.com",
        "https://evil.com#@sns.us-east-1.amazonaws.com",
        "https://evil.com?@sns.us-east-1.amazonaws.com",
        "https://evil.com/sns.us-east-1.amazonaws.com",
        "https://sns.us-east-1%2eamazonaws.com",
        "https://%73ns.us-east-1.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com%2f@evil.com",
        "https://sns.us-east-1.am\u{430}zonaws.com",
        "https://xn--sns-1.us-east-1.amazonaws.com",
        "https://sns\u{3002}us-east-1.amazonaws.com",
        "https://sns.us-east-1.amazonaws.com\t",
        "https://sns.us-east-1.amazon\naws.com",
        "https://sns.us-east-1.amazonaws.com\r\nHost: evil.com\r\n",
        "https://sns.us-east-1.amazonaws.com\0",
        "\thttps://sns.us-east-1.amazonaws.com",
        " https://sns.us-east-1.amazonaws.com",
        "https://127.0.0.1",
        "https://[::1]",
        "https://169.254.169.254",
        "file://",
        "",
    ] {
        assert!(!taken(&format!("{host}{FILE}")), "{host:?}");
    }
}

#[test]
fn every_trick_with_the_path_is_refused() {
    let hex = "0123456789abcdef0123456789abcdef";
    for path in [
        "".to_string(),
        "/".into(),
        format!("{FILE}?"),
        format!("{FILE}?x=1"),
        format!("{FILE}#"),
        format!("{FILE}#x"),
        format!("{FILE}/"),
        format!("{FILE}%00"),
        format!("{FILE}\n"),
        format!("{FILE} "),
        format!("{FILE}.pem"),
        format!("/x/..{FILE}"),
        format!("/..{FILE}"),
        format!("/{FILE}"),
        format!("\\{FILE}"),
        format!("/bucket{FILE}"),
        format!("/SimpleNotificationService-{hex}.pem/../../evil.pem"),
        format!("/SimpleNotificationService-{hex}"),
        format!("/SimpleNotificationService-{hex}.cer"),
        format!("/SimpleNotificationService-{hex}.PEM"),
        format!("/simplenotificationservice-{hex}.pem"),
        format!("/SimpleNotificationService-{}.pem", hex.to_uppercase()),
        format!("/SimpleNotificationService-{}.pem", &hex[1..]),
        format!("/SimpleNotificationService-{hex}0.pem"),
        format!("/SimpleNotificationService-{}.pem", "0".repeat(100_000)),
        format!("/SimpleNotificationService-{}/.pem", &hex[1..]),
        format!("/SimpleNotificationService-{}%30.pem", &hex[3..]),
        format!("/SimpleNotificationService-{}\t.pem", &hex[1..]),
    ] {
        let shown: String = path.chars().take(80).collect();
        assert!(!taken(&format!("https://sns.us-east-1.amazonaws.com{path}")), "{shown:?}");
    }
}

#[test]
fn a_region_that_is_a_host_of_s3_is_no_region() {
    for arn in [
        "arn:aws:sns:s3-us-west-2:123456789012:t",
        "arn:aws:sns:s3:123456789012:t",
        "arn:aws:sns:evil.com/:123456789012:t",
        "arn:aws:sns:us-east-1.evil:123456789012:t",
        "arn:aws:sns:US-EAST-1:123456789012:t",
        "arn:aws:sns::123456789012:t",
        "arn:aws:sns:us-east-1::t",
        "arn:aws:sns:us-east-1:123456789012:",
        "arn:aws:sns:us-east-1:123456789012:t:subscription",
        "arn:aws:sns:us-east-1:123456789012:t\n",
        "arn:aws:sqs:us-east-1:123456789012:t",
        "arn:aws-cn:sns:us-east-1:123456789012:t",
        "arn:aws:sns:cn-north-1:123456789012:t",
        "arn:aws-iso:sns:us-iso-east-1:123456789012:t",
        "",
    ] {
        assert_eq!(arn.parse::<TopicArn>(), Err(NotATopic), "{arn}");
    }
}

#[test]
fn the_names_are_those_of_awss_own_sdk() {
    let names = |arn: &str| topic(arn).certificate_names();
    assert!(names(TOPIC).contains(&"sns.amazonaws.com".into()));
    assert!(names(TOPIC).contains(&"sns.us-east-1.amazonaws.com".into()));
    let opted_in = names("arn:aws:sns:af-south-1:1:t");
    assert!(opted_in.contains(&"sns-signing.af-south-1.amazonaws.com".into()));
    let gov = names("arn:aws-us-gov:sns:us-gov-east-1:1:t");
    assert!(gov.contains(&"sns-us-gov-west-1.amazonaws.com".into()));
    let china = names("arn:aws-cn:sns:cn-northwest-1:1:t");
    assert!(china.contains(&"sns-cn-northwest-1.amazonaws.com.cn".into()));
    assert!(!china.contains(&"sns.amazonaws.com".into()));
}

#[test]
fn a_confirmation_goes_to_the_topics_region_whatever_the_token_is() {
    let url = topic(TOPIC).confirm_url("a&Action=Publish#@evil.com/\r\n");
    let expected = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription\
        &TopicArn=arn%3Aaws%3Asns%3Aus-east-1%3A123456789012%3Apikepole\
        &Token=a%26Action%3DPublish%23%40evil.com%2F%0D%0A";
    assert_eq!(url, expected);
}

#[test]
fn only_amazons_own_authority_is_asked_for_an_issuer() {
    for yes in ["http://crt.r2m01.amazontrust.com/r2m01.cer", "http://crt.sca1b.amazontrust.com/sca1b.crt"] {
        assert_eq!(issuer_url(yes), Some(yes));
    }
    for no in [
        "http://crt.evil.com/r2m01.cer",
        "http://crt.r2m01.amazontrust.com.evil.com/r2m01.cer",
        "http://crt.r2m01.amazontrust.com:80/r2m01.cer",
        "http://crt.x@evil.com/.amazontrust.com/r2m01.cer",
        "http://crt.evil.com/x.amazontrust.com/r2m01.cer",
        "http://crt.r2m01.amazontrust.com/../r2m01.cer",
        "http://crt.r2m01.amazontrust.com/r2m01.cer?x",
        "http://crt..amazontrust.com/r2m01.cer",
        "http://169.254.169.254/latest.cer",
        "https://crt.r2m01.amazontrust.com/r2m01.cer",
        "ldap://crt.r2m01.amazontrust.com/r2m01.cer",
    ] {
        assert_eq!(issuer_url(no), None, "{no}");
    }
}
