mod disks;

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::Source;

/// A folder with a state and outputs, and a log of what was run.
struct Rig {
    folder: TempDir,
    renders: Vec<RenderConfig>,
}

fn sh(script: String) -> Option<Command> {
    Some(Command(vec!["sh".into(), "-c".into(), script]))
}

fn roster(hosts: &[u8]) -> Arc<v1::Roster> {
    let member = |n: &u8| v1::Member {
        instance_id: format!("i-{n}"),
        address: ([10, 0, 0, *n], 5044).into(),
        zone: None,
        state: v1::MemberState::Active,
    };
    Arc::new(v1::Roster {
        fleet: "f".into(),
        dc: "d".into(),
        region: "r".into(),
        revision: 7,
        published_at: pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(0)),
        members: hosts.iter().map(member).collect(),
    })
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { folder: TempDir::new().unwrap(), renders: Vec::new() };
        rig.add("one.json");
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One more file of the same unit.
    fn add(&mut self, name: &str) -> &mut RenderConfig {
        self.renders.push(RenderConfig {
            template: Source::Builtin("hosts-json".into()),
            output: self.path(name),
            check: None,
            reload: sh(format!("echo reload >> {}", self.path("log").display())),
            alive: None,
            alive_after: Duration::ZERO,
            spacing: Duration::ZERO,
            quiet: Duration::ZERO,
            timeout: Duration::from_secs(30),
            allow_empty: false,
            mode: 0o644,
        });
        self.renders.last_mut().unwrap()
    }

    /// As after a start.
    fn start(&self) -> Applier {
        let state = State::open(&self.path("state")).unwrap();
        let units = vec![(0..self.renders.len()).collect()];
        let env: Variables = Arc::new(|name| (name == "PASSWORD").then(|| "s3cret-passw0rd".to_string()));
        Applier::new(self.renders.clone(), units, state, env)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn reloads(&self) -> usize {
        self.read("log").lines().count()
    }

    fn assert_no_leftovers(&self) {
        let hidden = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with('.');
        let left = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().path());
        assert_eq!(left.filter(|p| hidden(p)).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

fn kind(finished: &Finished) -> Option<Kind> {
    finished.failure.as_ref().map(|f| f.0)
}

#[tokio::test]
async fn what_has_not_changed_is_neither_written_nor_reloaded_also_after_a_restart() {
    let rig = Rig::new();
    let applier = rig.start();
    let done = applier.apply(0, roster(&[1, 2])).await;
    assert_eq!(done, Finished { written: true, reloaded: true, failure: None });
    assert_eq!(rig.read("one.json"), "[\"10.0.0.1:5044\", \"10.0.0.2:5044\"]\n");
    let nothing = Finished { written: false, reloaded: false, failure: None };
    assert_eq!(applier.apply(0, roster(&[1, 2])).await, nothing);
    drop(applier);
    assert_eq!(rig.start().apply(0, roster(&[1, 2])).await, nothing);
    assert_eq!(rig.reloads(), 1);
    rig.assert_no_leftovers();
}

#[tokio::test]
async fn what_somebody_else_wrote_over_is_put_back_and_reloaded() {
    let rig = Rig::new();
    rig.start().apply(0, roster(&[1])).await;
    let text = rig.read("one.json");
    std::fs::write(rig.path("one.json"), "of another tool").unwrap();
    let done = rig.start().apply(0, roster(&[1])).await;
    assert_eq!(done, Finished { written: true, reloaded: true, failure: None });
    assert_eq!((rig.read("one.json"), rig.reloads()), (text, 2), "the shipper may use the other file by now");
}

#[tokio::test]
async fn a_check_that_fails_leaves_all_files_of_the_unit_as_they_were() {
    let mut rig = Rig::new();
    rig.start().apply(0, roster(&[1])).await;
    let log = rig.path("seen");
    rig.add("two.json").check =
        sh(format!("cat {{candidate}} > {}; echo bad line 3 >&2; exit 1", log.display()));
    let done = rig.start().apply(0, roster(&[2])).await;
    assert_eq!(kind(&done), Some(Kind::CheckFailed));
    assert!(done.failure.unwrap().1.contains("bad line 3"));
    assert_eq!((rig.read("one.json"), rig.read("two.json")), ("[\"10.0.0.1:5044\"]\n".into(), String::new()));
    assert_eq!(rig.read("seen"), "[\"10.0.0.2:5044\"]\n", "the check saw the new file");
    assert_eq!(rig.reloads(), 1);
    rig.assert_no_leftovers();
}

#[tokio::test]
async fn a_unit_is_reloaded_once_for_all_its_files() {
    let mut rig = Rig::new();
    rig.add("two.json");
    let done = rig.start().apply(0, roster(&[1])).await;
    assert_eq!(done.failure, None);
    assert_eq!((rig.read("two.json"), rig.reloads()), ("[\"10.0.0.1:5044\"]\n".into(), 1));
}

#[tokio::test]
async fn whether_the_shipper_is_alive_is_asked_once_for_all_files_of_a_unit() {
    let mut rig = Rig::new();
    rig.add("two.json");
    rig.add("three.json");
    let asked = rig.path("asked");
    for render in &mut rig.renders {
        render.alive = sh(format!("echo asked >> {}", asked.display()));
    }
    let applier = rig.start();
    assert_eq!(applier.apply(0, roster(&[1])).await.failure, None);
    assert_eq!(rig.read("asked").lines().count(), 1);
}

#[tokio::test]
async fn what_a_killed_agent_left_over_is_removed_also_when_nothing_is_new() {
    let mut rig = Rig::new();
    rig.start().apply(0, roster(&[1])).await;
    for left in [".pikepole-new.one.json", ".pikepole-new.one.json.tmp"] {
        std::fs::write(rig.path(left), "half").unwrap();
        rig.start().apply(0, roster(&[1])).await;
        rig.assert_no_leftovers();
    }
    // Without a check nobody takes it for one of the files it stands among.
    let seen = rig.path("seen");
    rig.renders[0].check =
        sh(format!("ls -A {} > {}; : {{candidate}}", rig.folder.path().display(), seen.display()));
    rig.start().apply(0, roster(&[2])).await;
    assert!(rig.read("seen").lines().any(|name| name == ".pikepole-new.one.json"), "a check sees the ending");
    assert!(Place::find(&rig.path("one.json"), false).unwrap().candidate().extension().unwrap() == "tmp");
}

#[tokio::test]
async fn a_reload_that_failed_is_owed_until_it_goes_well_also_after_a_restart() {
    let mut rig = Rig::new();
    let good = rig.renders[0].reload.clone();
    rig.renders[0].reload = sh("exit 1".into());
    let done = rig.start().apply(0, roster(&[1])).await;
    assert_eq!((kind(&done), done.written, done.reloaded), (Some(Kind::ReloadFailed), true, true));
    rig.renders[0].reload = good;
    let applier = rig.start();
    let done = applier.apply(0, roster(&[1])).await;
    assert_eq!(done, Finished { written: false, reloaded: true, failure: None });
    assert!(!applier.apply(0, roster(&[1])).await.reloaded);
    assert_eq!(rig.reloads(), 1);
}

#[tokio::test]
async fn a_shipper_that_is_down_after_its_reload_is_reloaded_again() {
    let mut rig = Rig::new();
    let up = rig.path("up");
    rig.renders[0].alive = sh(format!("test -e {}", up.display()));
    let applier = rig.start();
    assert_eq!(kind(&applier.apply(0, roster(&[1])).await), Some(Kind::ShipperDown));
    assert!(applier.check_alive(0).await.is_err());
    std::fs::write(up, "").unwrap();
    let done = applier.apply(0, roster(&[1])).await;
    assert_eq!(done, Finished { written: false, reloaded: true, failure: None });
    assert_eq!((applier.check_alive(0).await, rig.reloads()), (Ok(()), 2));
}

#[tokio::test]
async fn a_job_that_is_dropped_in_its_reload_owes_it() {
    let mut rig = Rig::new();
    let good = rig.renders[0].reload.clone();
    rig.renders[0].reload = sh(format!("echo > {}; sleep 1000", rig.path("started").display()));
    let applier = rig.start();
    let started = rig.path("started");
    tokio::select! {
        done = applier.apply(0, roster(&[1])) => panic!("{done:?}"),
        () = async { while !started.exists() { tokio::task::yield_now().await } } => {}
    }
    drop(applier);
    rig.renders[0].reload = good;
    assert!(rig.start().apply(0, roster(&[1])).await.reloaded);
}

#[tokio::test]
async fn a_folder_that_is_missing_or_read_only_changes_nothing_else_of_the_unit() {
    for output in ["/proc/pikepole.json", "/no/such/folder/x.json"] {
        let mut rig = Rig::new();
        rig.add("two.json").output = output.into();
        let done = rig.start().apply(0, roster(&[1])).await;
        assert_eq!((kind(&done), done.written), (Some(Kind::WriteFailed), false));
        assert_eq!((rig.read("one.json"), rig.reloads()), (String::new(), 0));
        rig.assert_no_leftovers();
    }
}

#[tokio::test]
async fn a_template_that_fails_leaves_the_file() {
    let mut rig = Rig::new();
    std::fs::write(rig.path("t.j2"), "{{ hots }}").unwrap();
    std::fs::write(rig.path("one.json"), "old").unwrap();
    rig.renders[0].template = Source::File(rig.path("t.j2"));
    let done = rig.start().apply(0, roster(&[1])).await;
    assert_eq!(kind(&done), Some(Kind::TemplateFailed));
    assert!(done.failure.unwrap().1.contains("t.j2:1:4"));
    assert_eq!(rig.read("one.json"), "old");
}

#[tokio::test]
async fn a_secret_of_the_environment_that_a_program_repeats_is_not_shown() {
    let mut rig = Rig::new();
    std::fs::write(rig.path("t.j2"), "password: {{ env.PASSWORD }}").unwrap();
    rig.renders[0].template = Source::File(rig.path("t.j2"));
    rig.renders[0].check = sh("cat {candidate} >&2; exit 1".into());
    let (_, detail) = rig.start().apply(0, roster(&[1])).await.failure.unwrap();
    assert!(detail.contains("password: ***") && !detail.contains("s3cret"), "{detail}");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_told_and_stops_nothing() {
    let rig = Rig::new();
    let applier = rig.start();
    std::fs::remove_dir_all(rig.path("state")).unwrap();
    assert_eq!(applier.apply(0, roster(&[1])).await.failure, None);
    assert!(applier.state_error().unwrap().contains("reloaded.rec"));
    assert!(!applier.apply(0, roster(&[1])).await.reloaded, "it is remembered in memory");
}
