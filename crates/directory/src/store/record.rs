//! The form in which both stores keep a fleet's state: one line of JSON, `{"format":2,"fleet":…}`.
//!
//! Not the wire format of the HTTP API, and not the domain's own types: those may change, this may not.
//! The shapes are in `record/form.rs`. A new shape is a new format number.
//!
//! Invariant: what [`encode`] writes, [`decode`] reads; anything else is an error, never a guess.

mod form;
#[cfg(test)]
pub(super) mod strategy;

use pikepole_fleet::{FleetName, FleetState};
use serde::Deserialize;

use form::Form;

/// Bytes of a record, in a file or under a key. Ten thousand members with a full overlay and timeline
/// stay far below this; what is larger was not written by us.
pub(super) const MAX_RECORD: usize = 64 << 20;

/// The first format.
const FORMAT: u32 = 1;
/// The same with the lives of instances. A record without any is still written in the first format, so
/// that a version that does not know this one can read it.
const FORMAT_WITH_LIVES: u32 = 2;

/// Why a text is not the record of a fleet.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("larger than {MAX_RECORD} bytes")]
    TooLarge,
    #[error("not a record: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("format {0}, which this version of pikepole does not know")]
    Format(u32),
    #[error("the record of the fleet {0}")]
    OtherFleet(String),
    #[error("{what}: {why}")]
    Invalid { what: &'static str, why: String },
}

/// Writes a state down.
pub(super) fn encode(state: &FleetState) -> Result<Vec<u8>, RecordError> {
    let body = serde_json::to_vec(&Form::from_domain(state))?;
    if body.len() > MAX_RECORD {
        return Err(RecordError::TooLarge);
    }
    Ok(body)
}

/// Reads the state of `fleet` back.
pub(super) fn decode(body: &[u8], fleet: &FleetName) -> Result<FleetState, RecordError> {
    /// Read first, so that a record of tomorrow is called that, and not a syntax error.
    #[derive(Deserialize)]
    struct Probe {
        format: u32,
    }
    if body.len() > MAX_RECORD {
        return Err(RecordError::TooLarge);
    }
    let Probe { format } = serde_json::from_slice(body)?;
    if !matches!(format, FORMAT | FORMAT_WITH_LIVES) {
        return Err(RecordError::Format(format));
    }
    let form: Form = serde_json::from_slice(body)?;
    let state = form.into_domain()?;
    if state.fleet != *fleet {
        return Err(RecordError::OtherFleet(state.fleet.to_string()));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use pikepole_fleet::Lives;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_compact_and_its_words_are_fixed() {
        let state = strategy::rich_state("logstash-mumbai");
        let text = String::from_utf8(encode(&state).unwrap()).unwrap();
        assert_eq!(text, include_str!("record/golden-2.json").trim_end());
        assert_eq!(decode(text.as_bytes(), &state.fleet).unwrap(), state);
        let of_before = FleetState { lives: Lives::default(), ..state };
        let text = include_str!("record/golden-1.json").trim_end();
        assert_eq!(encode(&of_before).unwrap(), text.as_bytes());
        assert_eq!(decode(text.as_bytes(), &of_before.fleet).unwrap(), of_before);
        let unknown = FleetState::unknown("f".parse().unwrap());
        assert_eq!(encode(&unknown).unwrap(), br#"{"format":1,"fleet":"f"}"#);
    }

    #[test]
    fn what_is_not_a_record_says_why() {
        let fleet: FleetName = "f".parse().unwrap();
        let why = |text: &str| decode(text.as_bytes(), &fleet).unwrap_err().to_string();
        assert!(why("").starts_with("not a record: "));
        assert!(why("['10.0.0.1:5044']").starts_with("not a record: "));
        assert_eq!(
            why(r#"{"format":3,"fleet":"f","x":1}"#),
            "format 3, which this version of pikepole does not know"
        );
        assert_eq!(why(r#"{"format":1,"fleet":"g"}"#), "the record of the fleet g");
        assert!(why(r#"{"format":1,"fleet":"f","x":1}"#).contains("unknown field `x`"));
        assert!(why(r#"{"format":1,"fleet":"f/"}"#).starts_with("fleet: "));
        let roster = |members: &str| {
            why(&format!(
                r#"{{"format":1,"fleet":"f","roster":{{"revision":1,"published_at":1,"members":[{members}]}}}}"#
            ))
        };
        let member = |id: &str, address: &str, state: &str| {
            format!(r#"{{"id":"{id}","address":"{address}","state":"{state}"}}"#)
        };
        assert!(roster(&member("i-1", "10.0.0.1", "active")).starts_with("address: "));
        assert!(roster(&member("", "10.0.0.1:1", "active")).starts_with("instance id: "));
        assert!(roster(&member("i-1", "10.0.0.1:1", "asleep")).starts_with("not a record: "));
        let twice = member("i-1", "10.0.0.1:1", "active");
        assert!(roster(&format!("{twice},{twice}")).starts_with("roster: "));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_state_comes_back(state in strategy::state("f")) {
            let body = encode(&state).unwrap();
            prop_assert_eq!(decode(&body, &state.fleet).unwrap(), state);
        }

        #[test]
        fn no_bytes_make_it_panic(mut body in strategy::state("f").prop_map(|s| encode(&s).unwrap()),
                                  at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let at = at.index(body.len());
            body[at] = byte;
            // Redis keeps no checksum beside the body, so a changed value may be a valid one. What
            // is read must be a state that can be written again.
            if let Ok(state) = decode(&body, &"f".parse().unwrap()) {
                prop_assert!(encode(&state).is_ok());
            }
        }
    }
}
