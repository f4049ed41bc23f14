//! The lives of instances in a record: what a drain that goes on after a restart must know.

use std::collections::BTreeMap;

use pikepole_fleet::limits::{MAX_CLEAR, MAX_GONE, MAX_HOOKS, MAX_LIVES};
use pikepole_fleet::{Hook, InstanceId, Life, Lives, Revision, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use super::word::{EndWord, TransitionWord};
use super::{RecordError, invalid, millis, read};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LifeForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    launched: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answered: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_service: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warned: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    draining: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_off: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    awaited: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<WaitingForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clear: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitingForm {
    hook: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    transition: TransitionWord,
    since: u64,
    until: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<EndWord>,
}

pub(super) fn lives_form(lives: &Lives) -> BTreeMap<String, LifeForm> {
    lives.iter().map(|(id, life)| (id.to_string(), life_form(life))).collect()
}

fn life_form(life: &Life) -> LifeForm {
    let waiting = |w: &Waiting| WaitingForm {
        hook: w.hook.name.to_string(),
        token: w.hook.token.as_ref().map(|token| token.expose().to_owned()),
        transition: w.hook.transition.into(),
        since: w.since.as_millis(),
        until: w.until.as_millis(),
        done: w.done.map(|(at, _)| at.as_millis()),
        end: w.done.map(|(_, end)| end.into()),
    };
    LifeForm {
        launched: millis(life.launched),
        answered: millis(life.answered),
        given_up: millis(life.given_up),
        in_service: millis(life.in_service),
        warned: millis(life.warned),
        draining: millis(life.draining),
        moved_off: millis(life.moved_off),
        gone: millis(life.gone),
        awaited: life.awaited,
        waiting: life.waiting.iter().map(waiting).collect(),
        clear: life.clear.iter().map(|revision| revision.get()).collect(),
    }
}

pub(super) fn lives(forms: BTreeMap<String, LifeForm>) -> Result<Lives, RecordError> {
    if forms.len() > MAX_LIVES + MAX_GONE {
        return Err(invalid("lives", format_args!("{} of them, more than {MAX_LIVES}", forms.len())));
    }
    let one = |(id, form): (String, LifeForm)| {
        Ok::<_, RecordError>((read::<InstanceId>("instance id", &id)?, form.into_domain()?))
    };
    Ok(Lives(forms.into_iter().map(one).collect::<Result<_, _>>()?))
}

impl LifeForm {
    fn into_domain(self) -> Result<Life, RecordError> {
        if self.waiting.len() > MAX_HOOKS || self.clear.len() > MAX_CLEAR {
            return Err(invalid("lives", "more lifecycle actions or revisions than are ever kept"));
        }
        let at = |ms: Option<u64>| ms.map(Timestamp::from_millis);
        Ok(Life {
            launched: at(self.launched),
            answered: at(self.answered),
            given_up: at(self.given_up),
            in_service: at(self.in_service),
            warned: at(self.warned),
            draining: at(self.draining),
            moved_off: at(self.moved_off),
            gone: at(self.gone),
            awaited: self.awaited,
            waiting: self.waiting.into_iter().map(WaitingForm::into_domain).collect::<Result<_, _>>()?,
            clear: self.clear.into_iter().map(Revision::new).collect(),
        })
    }
}

impl WaitingForm {
    fn into_domain(self) -> Result<Waiting, RecordError> {
        let hook = Hook {
            name: read("hook", &self.hook)?,
            token: self.token.as_deref().map(|token| read("token", token)).transpose()?,
            transition: self.transition.into(),
        };
        let done = match (self.done, self.end) {
            (Some(at), Some(end)) => Some((Timestamp::from_millis(at), end.into())),
            (None, None) => None,
            _ => return Err(invalid("lives", "an action has one of done and end, but not the other")),
        };
        let (since, until) = (Timestamp::from_millis(self.since), Timestamp::from_millis(self.until));
        Ok(Waiting { hook, since, until, done })
    }
}
