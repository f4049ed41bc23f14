//! One job: a roster rendered into the files of a unit, checked, put in place, and its shipper reloaded, as
//! far as each is needed.
//!
//! Not a decision when: that is the planner's.
//!
//! Invariants: all files of a unit are replaced or, if one fails before that, none. What is in the state as
//! reloaded is compared with what stands, so a reload that is owed is not forgotten whenever the agent was
//! killed, and one that is not owed is not made.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_api::v1;
use ring::digest::{SHA256, digest};

use crate::command;
use crate::config::{Command, RenderConfig};
use crate::output::Place;
use crate::planner::Finished;
use crate::state::{Reloaded, State};
use crate::template::{Template, Variables, conceal};
use crate::trouble::Kind;

/// What a job may take beside its programs: a disk that needs longer is in trouble.
const FOR_THE_DISK: Duration = Duration::from_secs(30);

/// What jobs share.
#[derive(Clone)]
pub(crate) struct Applier {
    renders: Arc<[RenderConfig]>,
    units: Arc<[Vec<usize>]>,
    env: Variables,
    shared: Arc<Shared>,
}

struct Shared {
    state: State,
    reloaded: Mutex<Reloaded>,
    /// Why the state could not be written last.
    state_error: Mutex<Option<String>>,
}

/// A file as it shall be.
struct Prepared {
    render: usize,
    place: Place,
    hash: String,
    is_new: bool,
}

type Failure = (Kind, String);

impl Applier {
    pub(crate) fn new(
        renders: Vec<RenderConfig>,
        units: Vec<Vec<usize>>,
        state: State,
        env: Variables,
    ) -> Self {
        let reloaded = Mutex::new(state.reloaded());
        let shared = Arc::new(Shared { state, reloaded, state_error: Mutex::default() });
        Self { renders: renders.into(), units: units.into(), env, shared }
    }

    /// Keeps the last good roster; a failure is remembered as trouble. Blocking.
    pub(crate) fn keep_roster(&self, kept: &crate::state::Kept) {
        self.note_state(self.shared.state.keep_roster(kept));
    }

    /// Why the state could not be written last.
    pub(crate) fn state_error(&self) -> Option<String> {
        lock(&self.shared.state_error).clone()
    }

    fn note_state(&self, result: Result<(), String>) {
        *lock(&self.shared.state_error) = result.err();
    }

    /// Does one job.
    pub(crate) async fn apply(&self, unit: usize, roster: Arc<v1::Roster>) -> Finished {
        let mut finished = Finished { written: false, reloaded: false, failure: None };
        let mut hide = BTreeSet::new();
        if let Err((kind, detail)) = self.steps(unit, roster, &mut finished, &mut hide).await {
            // A program may repeat what stands in its configuration.
            finished.failure = Some((kind, conceal(detail, &hide)));
        }
        finished
    }

    async fn steps(
        &self,
        unit: usize,
        roster: Arc<v1::Roster>,
        finished: &mut Finished,
        hide: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let this = self.clone();
        let prepared = blocking(move || this.prepare(unit, &roster)).await?;
        let (files, used) = prepared;
        hide.extend(used);
        for file in files.iter().filter(|f| f.is_new) {
            if let Err(failure) = self.check(file).await {
                discard(&files);
                return Err(failure);
            }
        }
        let this = self.clone();
        let files = blocking(move || {
            this.forget_reloaded(&files);
            commit(files)
        })
        .await?;
        finished.written = files.iter().any(|f| f.is_new);
        if !self.is_reload_owed(&files) {
            return Ok(());
        }
        self.reload(unit, finished).await?;
        let this = self.clone();
        blocking(move || {
            this.note_reloaded(&files);
            Ok(())
        })
        .await
    }

    /// Renders all files of a unit, and writes those that changed beside the old ones. Blocking.
    fn prepare(
        &self,
        unit: usize,
        roster: &v1::Roster,
    ) -> Result<(Vec<Prepared>, BTreeSet<String>), Failure> {
        let mut used = BTreeSet::new();
        let mut files = Vec::new();
        for &index in &self.units[unit] {
            let render = &self.renders[index];
            let rendered = Template::load(&render.template).and_then(|t| t.render(roster, &self.env));
            let rendered = rendered.map_err(|e| (Kind::TemplateFailed, e.0));
            used.extend(rendered.as_ref().map(|r| r.used.clone()).unwrap_or_default());
            let staged = rendered.and_then(|r| stage(index, render, r.text).map_err(write_failed));
            match staged {
                Ok(file) => files.push(file),
                Err((kind, detail)) => {
                    discard(&files);
                    return Err((kind, conceal(detail, &used)));
                }
            }
        }
        Ok((files, used))
    }

    async fn check(&self, file: &Prepared) -> Result<(), Failure> {
        let render = &self.renders[file.render];
        let Some(check) = &render.check else { return Ok(()) };
        let words = check.with(&file.place.candidate().to_string_lossy(), &render.output.to_string_lossy());
        command::run(&words, render.timeout).await.map_err(|e| (Kind::CheckFailed, e))
    }

    fn is_reload_owed(&self, files: &[Prepared]) -> bool {
        let reloaded = lock(&self.shared.reloaded);
        files.iter().any(|f| reloaded.get(self.output(f)) != Some(&f.hash))
    }

    async fn reload(&self, unit: usize, finished: &mut Finished) -> Result<(), Failure> {
        let renders = || self.units[unit].iter().map(|&index| &self.renders[index]);
        let Some(render) = renders().find(|r| r.reload.is_some()) else { return Ok(()) };
        let Some(reload) = &render.reload else { return Ok(()) };
        finished.reloaded = true;
        command::run(&plain(reload, render), render.timeout).await.map_err(|e| (Kind::ReloadFailed, e))?;
        if let Some(after) = renders().filter(|r| r.alive.is_some()).map(|r| r.alive_after).max() {
            tokio::time::sleep(after).await;
        }
        let asked = self.check_alive(unit).await;
        asked.map_err(|e| (Kind::ShipperDown, format!("it is not alive after its reload: {e}")))
    }

    /// Asks whether a unit's shipper is alive.
    pub(crate) async fn check_alive(&self, unit: usize) -> Result<(), String> {
        let mut asked = BTreeSet::new(); // most files of a unit have the same question
        for render in self.units[unit].iter().map(|&index| &self.renders[index]) {
            let Some(alive) = &render.alive else { continue };
            let words = plain(alive, render);
            if asked.insert(words.clone()) {
                command::run(&words, render.timeout).await?;
            }
        }
        Ok(())
    }

    /// Somebody else wrote over a file, so the shipper may use anything: what is put back is reloaded, also
    /// after a crash in between. Blocking.
    fn forget_reloaded(&self, files: &[Prepared]) {
        let snapshot = {
            let mut reloaded = lock(&self.shared.reloaded);
            let before = reloaded.len();
            for file in files.iter().filter(|file| file.is_new) {
                if reloaded.get(self.output(file)) == Some(&file.hash) {
                    reloaded.remove(self.output(file));
                }
            }
            (reloaded.len() != before).then(|| reloaded.clone())
        };
        if let Some(snapshot) = snapshot {
            self.note_state(self.shared.state.keep_reloaded(&snapshot));
        }
    }

    /// From here on these files are what the shipper uses. Blocking.
    fn note_reloaded(&self, files: &[Prepared]) {
        let snapshot = {
            let mut reloaded = lock(&self.shared.reloaded);
            for file in files {
                reloaded.insert(self.output(file).clone(), file.hash.clone());
            }
            // Outputs that are configured no longer need no place.
            reloaded.retain(|output, _| self.renders.iter().any(|r| r.output == *output));
            reloaded.clone()
        };
        self.note_state(self.shared.state.keep_reloaded(&snapshot));
    }

    fn output(&self, file: &Prepared) -> &PathBuf {
        &self.renders[file.render].output
    }
}

/// A command about a file that is in its place.
fn plain(command: &Command, render: &RenderConfig) -> Vec<String> {
    let output = render.output.to_string_lossy();
    command.with(&output, &output)
}

/// How long a job of a unit may take: all its programs with their last grace, and some time for the disk.
pub(crate) fn longest<'a>(unit: impl Iterator<Item = &'a RenderConfig>) -> Duration {
    let of_file = |render: &RenderConfig| {
        let programs = [&render.check, &render.reload, &render.alive].into_iter().flatten().count();
        let programs = u32::try_from(programs).unwrap_or(u32::MAX);
        render.alive_after + (render.timeout + command::LONGEST_END).saturating_mul(programs)
    };
    unit.map(of_file).sum::<Duration>() + FOR_THE_DISK
}

fn stage(render: usize, config: &RenderConfig, text: String) -> Result<Prepared, String> {
    let place = Place::find(&config.output, config.check.is_some())?;
    let is_new = place.current()?.is_none_or(|bytes| bytes != text.as_bytes());
    place.discard(); // left over by an agent that was killed
    if is_new {
        place.stage(text.as_bytes(), config.mode)?;
    }
    let hash = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Prepared { render, place, hash, is_new })
}

fn commit(files: Vec<Prepared>) -> Result<Vec<Prepared>, Failure> {
    for file in files.iter().filter(|f| f.is_new) {
        if let Err(error) = file.place.commit() {
            discard(&files);
            return Err(write_failed(error));
        }
    }
    Ok(files)
}

fn discard(files: &[Prepared]) {
    for file in files.iter().filter(|f| f.is_new) {
        file.place.discard();
    }
}

fn write_failed(detail: String) -> Failure {
    (Kind::WriteFailed, detail)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err((Kind::WriteFailed, format!("the job ended unexpectedly: {panic}"))))
}

#[cfg(test)]
mod tests;
