//! Reads the XML that AWS answers with.
//!
//! Not a general parser: no document types, no namespaces, no mixed content; an answer that has more
//! than AWS ever sends is refused.
//!
//! Invariant: a document that ends too early is an error, never a short answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pikepole_fleet::InstanceId;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

/// Elements inside each other; EC2's answers are about ten deep.
const MAX_DEPTH: usize = 32;

/// Bytes of an error code that are passed on; the longest known has 50.
const MAX_CODE: usize = 64;

/// Why an XML document is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum XmlError {
    #[error("it is no XML: {0}")]
    Syntax(String),
    #[error("it ends too early")]
    Truncated,
    #[error("it is nested too deep")]
    TooDeep,
    #[error("it is a {0:?}")]
    OtherRoot(String),
    #[error("it has no {0}")]
    Without(&'static str),
    #[error("it names an instance {0:?}")]
    BadId(String),
    #[error("it gives {0} no address but {1:?}")]
    BadAddress(InstanceId, String),
}

/// An instance as EC2 tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) id: InstanceId,
    /// The primary private IPv4 address, else the first IPv6 address.
    pub(super) ip: Option<IpAddr>,
    /// `running`, `terminated`, …
    pub(super) state: String,
}

/// One page of `DescribeInstances`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct HostPage {
    pub(super) hosts: Vec<Host>,
    pub(super) next: Option<String>,
}

/// The texts of one instance, until its element ends.
#[derive(Default)]
struct Draft {
    id: String,
    state: String,
    v4: Option<String>,
    v6: Option<String>,
}

/// Reads one page of `DescribeInstances`.
pub(super) fn host_page(xml: &[u8]) -> Result<HostPage, XmlError> {
    const INSTANCE: [&str; 4] = ["reservationSet", "item", "instancesSet", "item"];
    let mut page = HostPage::default();
    let mut draft = Draft::default();
    let mut listed = false;
    walk(xml, "DescribeInstancesResponse", |path, text| {
        let Some(inside) = path.strip_prefix(&INSTANCE) else {
            listed |= path.is(&["reservationSet"]);
            if path.is(&["nextToken"]) && !text.is_empty() {
                page.next = Some(text.to_owned());
            }
            return Ok(());
        };
        match inside.parts().as_slice() {
            [] => page.hosts.push(std::mem::take(&mut draft).finish()?),
            ["instanceId"] => draft.id = text.to_owned(),
            ["instanceState", "name"] => draft.state = text.to_owned(),
            ["privateIpAddress"] if !text.is_empty() => draft.v4 = Some(text.to_owned()),
            ["networkInterfaceSet", "item", "ipv6AddressesSet", "item", "ipv6Address"]
                if !text.is_empty() =>
            {
                draft.v6.get_or_insert_with(|| text.to_owned());
            }
            _ => {}
        }
        Ok(())
    })?;
    if listed { Ok(page) } else { Err(XmlError::Without("reservationSet")) }
}

/// Whether an answer of `DescribeAutoScalingGroups` is whole and has a list of groups, empty or not.
pub(super) fn check_groups(xml: &[u8]) -> Result<(), XmlError> {
    check_list(
        xml,
        "DescribeAutoScalingGroupsResponse",
        "DescribeAutoScalingGroupsResult",
        "AutoScalingGroups",
    )
}

/// Whether an answer of `DescribeLifecycleHooks` is whole and has a list of hooks, empty or not.
pub(super) fn check_hooks(xml: &[u8]) -> Result<(), XmlError> {
    check_list(xml, "DescribeLifecycleHooksResponse", "DescribeLifecycleHooksResult", "LifecycleHooks")
}

/// Whether a document is whole and is the one of this name.
pub(super) fn check_root(xml: &[u8], root: &str) -> Result<(), XmlError> {
    walk(xml, root, |_, _| Ok(()))
}

fn check_list(xml: &[u8], root: &str, result: &str, list: &'static str) -> Result<(), XmlError> {
    let mut listed = false;
    walk(xml, root, |path, _| {
        listed |= path.is(&[result, list]);
        Ok(())
    })?;
    if listed { Ok(()) } else { Err(XmlError::Without(list)) }
}

/// The code of an error answer, in whatever document it stands. Only what looks like a code.
pub(super) fn error_code(xml: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(xml).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    clean_code(code)
}

/// The code if it looks like one: it goes into logs and messages.
pub(super) fn clean_code(code: &str) -> Option<String> {
    let code = code.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!code.is_empty() && code.len() <= MAX_CODE && code.chars().all(plain)).then(|| code.to_owned())
}

impl Draft {
    fn finish(self) -> Result<Host, XmlError> {
        let id: InstanceId = self.id.parse().map_err(|_| XmlError::BadId(shorten(&self.id)))?;
        let ip = match (self.v4, self.v6) {
            (Some(text), _) => text.parse::<Ipv4Addr>().map(IpAddr::V4).map(Some).map_err(|_| text),
            (None, Some(text)) => text.parse::<Ipv6Addr>().map(IpAddr::V6).map(Some).map_err(|_| text),
            (None, None) => Ok(None),
        };
        match ip {
            Ok(ip) => Ok(Host { id, ip, state: self.state }),
            Err(text) => Err(XmlError::BadAddress(id, shorten(&text))),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_CODE).collect()
}

/// Where an element stands below the root.
#[derive(Clone, Copy)]
struct Path<'a>(&'a [String]);

impl<'a> Path<'a> {
    fn strip_prefix(self, prefix: &[&str]) -> Option<Path<'a>> {
        let (start, rest) = self.0.split_at_checked(prefix.len())?;
        (start == prefix).then_some(Path(rest))
    }

    fn is(self, parts: &[&str]) -> bool {
        self.0 == parts
    }

    fn parts(self) -> Vec<&'a str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// Calls `leave` with the path below the root and the text of every element, when it ends.
fn walk(
    xml: &[u8],
    root: &str,
    mut leave: impl FnMut(Path<'_>, &str) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let text = std::str::from_utf8(xml).map_err(|e| syntax(&e))?;
    let mut reader = Reader::from_str(text);
    // `<a/>` and `<a></a>` say the same.
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<String> = Vec::new();
    let mut content = String::new();
    let mut rooted = false;
    loop {
        match reader.read_event().map_err(|e| syntax(&e))? {
            Event::Start(tag) => {
                let name = tag.name();
                let name = std::str::from_utf8(name.as_ref()).map_err(|e| syntax(&e))?;
                if path.is_empty() && (rooted || name != root) {
                    return Err(XmlError::OtherRoot(shorten(name)));
                }
                if path.len() == MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                rooted = true;
                path.push(name.to_owned());
                content.clear();
            }
            Event::End(_) => {
                if path.len() > 1 {
                    leave(Path(&path[1..]), content.trim())?;
                }
                path.pop();
                content.clear();
            }
            Event::Text(text) => content.push_str(&text.decode().map_err(|e| syntax(&e))?),
            Event::CData(text) => content.push_str(&text.decode().map_err(|e| syntax(&e))?),
            Event::GeneralRef(entity) => content.push(character(&entity)?),
            Event::DocType(_) => return Err(XmlError::OtherRoot("document type".to_owned())),
            Event::Eof if path.is_empty() && rooted => return Ok(()),
            Event::Eof => return Err(XmlError::Truncated),
            // An empty element comes as a start and an end.
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn character(entity: &BytesRef<'_>) -> Result<char, XmlError> {
    if let Some(c) = entity.resolve_char_ref().map_err(|e| syntax(&e))? {
        return Ok(c);
    }
    let name: &[u8] = entity.as_ref();
    match name {
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"amp" => Ok('&'),
        b"apos" => Ok('\''),
        b"quot" => Ok('"'),
        _ => Err(XmlError::Syntax("it has an entity of its own".to_owned())),
    }
}

fn syntax(error: &dyn std::error::Error) -> XmlError {
    XmlError::Syntax(error.to_string().chars().take(2 * MAX_CODE).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>
        <reservationSet><item><instancesSet>
          <item><instanceId>i-1</instanceId><instanceState><code>16</code><name>running</name></instanceState>
            <privateIpAddress>10.0.0.1</privateIpAddress>
            <networkInterfaceSet><item><privateIpAddress>192.0.2.1</privateIpAddress></item></networkInterfaceSet>
          </item>
          <item><instanceId>i-2</instanceId><privateIpAddress/>
            <networkInterfaceSet><item><ipv6AddressesSet><item><ipv6Address>fd00::1</ipv6Address></item>
              <item><ipv6Address>fd00::2</ipv6Address></item></ipv6AddressesSet></item></networkInterfaceSet>
          </item>
        </instancesSet></item><item><instancesSet>
          <item><instanceId>i-3</instanceId><instanceState><name>terminated</name></instanceState></item>
        </instancesSet></item></reservationSet><nextToken>a&amp;b&#x3d;</nextToken></DescribeInstancesResponse>"#;

    #[test]
    fn a_page_is_read_with_the_primary_address_of_each() {
        let page = host_page(PAGE.as_bytes()).unwrap();
        let seen: Vec<_> = page.hosts.iter().map(|h| (h.id.as_str(), h.ip, h.state.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("i-1", Some("10.0.0.1".parse().unwrap()), "running"),
                ("i-2", Some("fd00::1".parse().unwrap()), ""),
                ("i-3", None, "terminated"),
            ]
        );
        assert_eq!(page.next.as_deref(), Some("a&b="));
    }

    #[test]
    fn every_early_end_is_an_error() {
        let whole = PAGE.trim_end();
        for end in 0..whole.len() {
            let cut = whole.as_bytes()[..end].to_vec();
            assert!(host_page(&cut).is_err(), "cut at {end} was taken");
        }
    }

    #[test]
    fn what_aws_never_sends_is_refused() {
        let open = "<DescribeInstancesResponse>";
        let close = "</DescribeInstancesResponse>";
        let deep = format!("{open}{}{}{close}", "<a>".repeat(40), "</a>".repeat(40));
        for (xml, error) in [
            ("<html></html>", XmlError::OtherRoot("html".to_owned())),
            ("<DescribeInstancesResponse/>", XmlError::Without("reservationSet")),
            ("", XmlError::Truncated),
            (deep.as_str(), XmlError::TooDeep),
        ] {
            assert_eq!(host_page(xml.as_bytes()), Err(error), "{xml}");
        }
        for xml in [
            format!("<!DOCTYPE x [<!ENTITY y \"z\">]>{open}{close}"),
            format!("{open}<nextToken>&y;</nextToken>{close}"),
            format!("{open}{close}{open}{close}"),
            PAGE.replace("10.0.0.1", "10.0.0.256"),
            PAGE.replace("i-1", ""),
        ] {
            assert!(host_page(xml.as_bytes()).is_err(), "{xml}");
        }
    }

    #[test]
    fn an_empty_list_is_not_a_missing_one() {
        let groups = |inside: &str| {
            format!(
                "<DescribeAutoScalingGroupsResponse><DescribeAutoScalingGroupsResult>{inside}\
                 </DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
            )
        };
        assert_eq!(check_groups(groups("<AutoScalingGroups/>").as_bytes()), Ok(()));
        assert_eq!(check_groups(groups("<AutoScalingGroups></AutoScalingGroups>").as_bytes()), Ok(()));
        assert_eq!(check_groups(groups("").as_bytes()), Err(XmlError::Without("AutoScalingGroups")));
        let none = b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>";
        assert_eq!(host_page(none), Ok(HostPage::default()));
    }

    #[test]
    fn an_error_code_is_found_in_both_forms_and_only_if_it_is_one() {
        let ec2 = b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>";
        assert_eq!(error_code(ec2).as_deref(), Some("RequestLimitExceeded"));
        assert_eq!(error_code(b"<Error><Code>Client.X</Code>").as_deref(), Some("Client.X"));
        assert_eq!(error_code(b"<Code>a\nb c</Code>"), None);
        assert_eq!(error_code(b"<html>"), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(junk in proptest::collection::vec(any::<u8>(), 0..200), at in 0..PAGE.len()) {
            let mut bytes = PAGE.as_bytes().to_vec();
            let end = (at + junk.len()).min(bytes.len());
            bytes.splice(at..end, junk.iter().copied());
            // Only that it returns matters here.
            drop((host_page(&bytes), host_page(&junk), error_code(&junk)));
        }
    }
}
