//! The demo's part of the page: its script and style, the flows as JSON, and the buttons.
//!
//! Not who may press them: the directory sees to that. Not what they do either: the fleet's life does it.

use bytes::Bytes;
use pikepole_directory::http::{Extra, Pressed};

use super::flows::{Flow, Press};

/// All flows, in the order of the fleets.
pub(super) struct Buttons(pub(super) Vec<Flow>);

impl Extra for Buttons {
    fn get(&self, path: &str) -> Option<(&'static str, Bytes)> {
        Some(match path {
            "demo.js" => ("text/javascript; charset=utf-8", include_str!("page/demo.js").into()),
            "demo.css" => ("text/css; charset=utf-8", include_str!("page/demo.css").into()),
            "flows.json" => {
                let shown: Vec<_> = self.0.iter().map(Flow::show).collect();
                let json = serde_json::to_vec(&shown).expect("flows are texts, numbers and lists");
                ("application/json", json.into())
            }
            _ => return None,
        })
    }

    fn press(&self, path: &str) -> Pressed {
        let named = path.split_once('/').and_then(|(fleet, button)| {
            Some((self.0.iter().find(|flow| flow.fleet() == fleet)?, Press::named(button)?))
        });
        match named {
            None => Pressed::Unknown,
            Some((flow, press)) if flow.press(press) => Pressed::Taken,
            Some(_) => Pressed::Busy,
        }
    }
}
