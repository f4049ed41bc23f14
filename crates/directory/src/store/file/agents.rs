//! The agents of each fleet on the local disk: `DIR/agents/NAME.rec`, framed like a fleet's record.
//!
//! A file that is no list of agents is put aside like any other, and counts as an empty one: the agents
//! come back by themselves within seconds.

use pikepole_fleet::FleetName;

use super::folder::{Content, Folder};
use super::{frame, put_aside, unavailable};
use crate::store::agent::AgentForm;
use crate::store::{KnownAgent, StoreError, Version};

pub(super) fn load(folder: &Folder, fleet: &FleetName) -> Result<Vec<KnownAgent>, StoreError> {
    let content = folder.read(fleet).map_err(|e| unavailable(&folder.record(fleet), "cannot read", &e))?;
    let bytes = match content {
        Content::Absent => return Ok(Vec::new()),
        Content::Bytes(bytes) => bytes,
        Content::NotAFile | Content::TooLarge(_) => {
            return Err(put_aside(folder, fleet, "foreign: no file of agents"));
        }
    };
    let forms = frame::open(&bytes).map_err(|e| e.to_string()).and_then(|(_, body)| {
        serde_json::from_slice::<Vec<AgentForm>>(&bytes[body..]).map_err(|e| e.to_string())
    });
    match forms {
        Ok(forms) => Ok(forms.into_iter().map(KnownAgent::from).collect()),
        Err(why) => Err(put_aside(folder, fleet, &why)),
    }
}

pub(super) fn save(folder: &Folder, fleet: &FleetName, agents: &[KnownAgent]) -> Result<(), StoreError> {
    let forms: Vec<AgentForm> = agents.iter().map(AgentForm::from).collect();
    let body = serde_json::to_vec(&forms)
        .map_err(|e| StoreError::Unavailable(format!("the agents of {fleet} cannot be written down: {e}")))?;
    folder
        .replace(fleet, &frame::seal(Version(1), &body))
        .map_err(|e| unavailable(&folder.record(fleet), "cannot write", &e))
}
