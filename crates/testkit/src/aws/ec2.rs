//! The EC2 side of the fake: `DescribeInstances` with the `instance-id` filter.
//!
//! Invariant: limits are those of the API: 5 to 1,000 results a page, 200 values in a filter. An id
//! that EC2 does not know is left out, which is why a filter is used and not `InstanceId.N`.

use std::net::IpAddr;

use super::model::{Host, Model};
use super::query::{Params, Reply, element, error, page};

const MAX_RESULTS: std::ops::RangeInclusive<usize> = 5..=1000;
const MAX_VALUES: usize = 200;

pub(super) fn describe_instances(model: &Model, params: &Params) -> Reply {
    let values = params.list("Filter.1.Value.");
    if params.get("Version") != Some("2016-11-15") {
        return error(400, "InvalidAction", "there is no such version");
    }
    if params.get("Filter.1.Name") != Some("instance-id") || params.get("InstanceId.1").is_some() {
        return error(400, "InvalidParameterValue", "the fake wants the instance-id filter");
    }
    if values.len() > MAX_VALUES {
        return error(400, "FilterLimitExceeded", "The maximum number of filter values is 200");
    }
    let size = params.number("MaxResults").unwrap_or(*MAX_RESULTS.end());
    if !MAX_RESULTS.contains(&size) {
        return error(400, "InvalidParameterValue", "MaxResults is out of range");
    }
    let known = |id: &str| model.hosts.get(id).filter(|h| h.visible);
    let found: Vec<_> = values.iter().filter_map(|id| Some((*id, known(id)?))).collect();
    let (range, next) = page(params, found.len(), size.min(model.max_page));

    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>r</requestId><reservationSet>",
    );
    for (id, host) in &found[range] {
        write_host(&mut xml, id, host, model.hide_addresses);
    }
    xml.push_str("</reservationSet>");
    if let Some(token) = next {
        element(&mut xml, "nextToken", &token);
    }
    xml.push_str("</DescribeInstancesResponse>");
    Reply::xml(xml)
}

fn write_host(xml: &mut String, id: &str, host: &Host, hide_address: bool) {
    let address = host.address.filter(|_| !hide_address);
    xml.push_str("<item><reservationId>r-1</reservationId><instancesSet><item>");
    element(xml, "instanceId", id);
    xml.push_str("<instanceState><code>16</code>");
    element(xml, "name", &host.state);
    xml.push_str("</instanceState><placement>");
    element(xml, "availabilityZone", host.zone);
    xml.push_str("</placement>");
    if let Some(IpAddr::V4(v4)) = address {
        element(xml, "privateIpAddress", &v4.to_string());
    }
    xml.push_str("<networkInterfaceSet><item>");
    // A second interface's address is in here too, and must not be taken for the primary one.
    element(xml, "privateIpAddress", "192.0.2.1");
    xml.push_str("<ipv6AddressesSet>");
    if let Some(IpAddr::V6(v6)) = address {
        xml.push_str("<item>");
        element(xml, "ipv6Address", &v6.to_string());
        xml.push_str("</item>");
    }
    xml.push_str("</ipv6AddressesSet></item></networkInterfaceSet></item></instancesSet></item>");
}
