//! Query parameters. `/v1` refuses what it does not know; the seed's routes ignore it, like the seed.

use std::borrow::Cow;
use std::time::Duration;

use pikepole_fleet::Revision;

use super::agents::Caller;
use super::reply::ApiError;
use crate::store::AgentKey;

/// Longest `wait` of a long poll.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(300);
/// Longest agent id, in bytes.
const MAX_AGENT_ID: usize = 128;

fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

/// The first value of each named parameter, as Flask's `request.args` gives it.
pub(super) fn lenient<'a, const N: usize>(
    query: Option<&'a str>,
    names: [&str; N],
) -> [Option<Cow<'a, str>>; N] {
    let mut found = [const { None }; N];
    for (key, value) in pairs(query) {
        if let Some(index) = names.iter().position(|name| *name == key)
            && found[index].is_none()
        {
            found[index] = Some(value);
        }
    }
    found
}

/// At most one value of each named parameter, and no other parameter.
pub(super) fn strict<'a, const N: usize>(
    query: Option<&'a str>,
    names: [&str; N],
) -> Result<[Option<Cow<'a, str>>; N], ApiError> {
    let mut found = [const { None }; N];
    for (key, value) in pairs(query) {
        let Some(index) = names.iter().position(|name| *name == key) else {
            return Err(unknown(&key, &names));
        };
        if found[index].replace(value).is_some() {
            return Err(ApiError::bad_request(format!("the parameter {key} is given twice")));
        }
    }
    Ok(found)
}

/// All values of the one parameter that is allowed.
pub(super) fn repeated<'a>(query: Option<&'a str>, name: &str) -> Result<Vec<Cow<'a, str>>, ApiError> {
    let mut values: Vec<Cow<'_, str>> = Vec::new();
    for (key, value) in pairs(query) {
        if key != name {
            return Err(unknown(&key, &[name]));
        }
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

fn unknown(key: &str, names: &[&str]) -> ApiError {
    let key: String = key.chars().take(40).collect();
    let allowed =
        if names.is_empty() { "takes no parameters".into() } else { format!("takes {}", names.join(", ")) };
    ApiError::bad_request(format!("unknown parameter {key:?}; this route {allowed}"))
}

/// A duration up to `most`.
pub(super) fn duration(name: &str, text: &str, most: Duration) -> Result<Duration, ApiError> {
    pikepole_api::time::parse_duration(text).filter(|d| *d <= most).ok_or_else(|| {
        let most = pikepole_api::time::format_duration(most);
        ApiError::bad_request(format!("{name} must be a duration up to {most}, like 55s"))
    })
}

/// What a long poll asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Poll {
    /// The revision the caller has.
    pub(super) after: Option<u64>,
    /// How long it will wait for another.
    pub(super) wait: Duration,
}

/// The parameters of `…/roster`: what is asked for, and by whom, if the caller is an agent.
pub(super) fn poll(query: Option<&str>) -> Result<(Poll, Option<Caller>), ApiError> {
    let [after, wait, agent, start, applied] = strict(query, ["after", "wait", "agent", "start", "applied"])?;
    let number = |name: &str, text: Option<Cow<'_, str>>| {
        text.map(|t| {
            t.parse::<u64>()
                .map_err(|_| ApiError::bad_request(format!("{name} must be a revision, a whole number")))
        })
        .transpose()
    };
    let is_id = |id: &str| !id.is_empty() && id.len() <= MAX_AGENT_ID && !id.chars().any(char::is_control);
    if agent.as_deref().is_some_and(|id| !is_id(id)) {
        return Err(ApiError::bad_request(format!("agent must be 1 to {MAX_AGENT_ID} printable bytes")));
    }
    if start.as_deref().is_some_and(|uuid| !is_uuid(uuid)) {
        return Err(ApiError::bad_request("start must be a UUID".into()));
    }
    let applied = number("applied", applied)?.map(Revision::new);
    let start = start.as_deref().unwrap_or_default();
    let key = agent.map(|id| AgentKey { id: id.as_ref().into(), start: start.into() });
    let caller = key.map(|key| Caller { key, applied });
    let after = number("after", after)?;
    let wait = wait.map_or(Ok(Duration::ZERO), |text| duration("wait", &text, MAX_WAIT))?;
    Ok((Poll { after, wait }, caller))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_routes_take_the_first_value_and_ignore_the_rest() {
        let [dcid, region] = lenient(Some("dcid=a&x=1&dcid=b&region=ap%2Dsouth+1"), ["dcid", "region"]);
        assert_eq!(dcid.as_deref(), Some("a"));
        assert_eq!(region.as_deref(), Some("ap-south 1"));
    }

    #[test]
    fn v1_refuses_unknown_doubled_and_malformed_parameters() {
        for query in [
            "affter=1",
            "after=1&after=2",
            "after=x",
            "after=-1",
            "wait=5",
            "wait=301s",
            "agent=",
            "start=1",
            "applied=x",
            "after=99999999999999999999999",
        ] {
            assert!(poll(Some(query)).is_err(), "{query}");
        }
        let whole = "after=7&wait=55s&agent=h1&start=0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f10&applied=7";
        let (asked, caller) = poll(Some(whole)).unwrap();
        assert_eq!(asked, Poll { after: Some(7), wait: Duration::from_secs(55) });
        assert_eq!(
            caller.map(|c| (c.key.id.to_string(), c.applied)),
            Some(("h1".into(), Some(Revision::new(7))))
        );
        assert_eq!(poll(None).unwrap(), (Poll { after: None, wait: Duration::ZERO }, None));
    }
}
