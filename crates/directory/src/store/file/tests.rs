//! The conformance suite on the file store, and the faults that a disk can have.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::super::conformance::{self, name};
use super::super::record::strategy::{self, rich_state};
use super::*;

/// Set for a test that runs itself again in a child process; holds the store's folder.
const CHILD: &str = "PIKEPOLE_TEST_STORE_DIR";

async fn store() -> (TempDir, Arc<FileStore>) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(dir.path().join("directory")).await.unwrap();
    (dir, Arc::new(store))
}

fn listing(folder: &Folder, fleet: &FleetName) -> Vec<String> {
    let folder = folder.record(fleet);
    let mut names: Vec<String> = fs::read_dir(folder.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn it_conforms() {
    let (_dir, store) = store().await;
    conformance::keeps_one_record_a_fleet(store.clone()).await;
    conformance::takes_every_name(store.clone()).await;
    conformance::loses_no_write_of_a_race(store.clone()).await;
    let folder = Arc::clone(&store.folder);
    let spoil = async |fleet: &FleetName| fs::write(folder.record(fleet), "['10.0.0.1:5044']").unwrap();
    conformance::reports_damage_once(store, spoil).await;
}

#[tokio::test]
async fn a_record_outlives_the_process_and_a_folder_has_one_owner() {
    let (dir, store) = store().await;
    let version = store.save(&rich_state("f"), None).await.unwrap();
    assert_eq!(version, Version(1));
    let path = dir.path().join("directory");
    let refused = FileStore::open(&path).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let record = store.folder.record(&name("f"));
    assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);

    drop(store);
    fs::write(record.with_extension("rec.tmp"), "half a rec").unwrap();
    let store = FileStore::open(&path).await.unwrap();
    assert_eq!(listing(&store.folder, &name("f")), ["f.rec"], "the unfinished write is cleared away");
    let stored = store.load(&name("f")).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.state), (version, rich_state("f")));
}

#[test]
fn every_cut_and_every_flipped_bit_is_damage_and_never_a_state() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().join("fleets")).unwrap();
    let fleet = name("f");
    // A small state: each damage costs two syncs of the disk. The next test has the large one.
    let state = FleetState { missing: true, ..FleetState::unknown(fleet.clone()) };
    let whole = frame::seal(Version(7), &record::encode(&state).unwrap());
    let judge = |bytes: &[u8], how: &str| {
        fs::write(folder.record(&fleet), bytes).unwrap();
        let found = load(&folder, &fleet);
        let Err(StoreError::Damaged { why, kept_at, .. }) = found else { panic!("{how}: {found:?}") };
        assert_eq!(fs::read(kept_at).unwrap(), bytes, "{how}");
        assert!(!folder.record(&fleet).exists(), "{how}");
        why
    };
    for cut in 0..whole.len() {
        let why = judge(&whole[..cut], &format!("cut at {cut}"));
        assert!(why.starts_with("torn: "), "cut at {cut}: {why}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        judge(&bytes, &format!("a bit flipped in byte {at}"));
    }
    fs::write(folder.record(&fleet), &whole).unwrap();
    let stored = load(&folder, &fleet).unwrap().unwrap();
    assert_eq!((stored.version, stored.state), (Version(7), state));
    assert_eq!(listing(&folder, &fleet).len(), 1 + 10, "ten are kept, and the newest");
}

#[test]
fn every_cut_and_every_single_bit_of_a_large_record_is_seen() {
    let whole = frame::seal(Version(7), &record::encode(&rich_state("f")).unwrap());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(frame::open(&bytes).is_err(), "bit {bit}");
    }
    for cut in 0..whole.len() {
        assert!(matches!(frame::open(&whole[..cut]), Err(frame::FrameError::Torn(_))), "cut at {cut}");
    }
}

#[tokio::test]
async fn what_is_no_record_is_put_aside_whatever_it_is() {
    let (_dir, store) = store().await;
    let fleet = name("f");
    let record = store.folder.record(&fleet);
    let frame_of = |body: &[u8]| frame::seal(Version(1), body);
    let cases: [(&str, Vec<u8>); 5] = [
        ("torn: 0 bytes", vec![]),
        ("torn: 4096 bytes, all zero", vec![0; 4096]),
        ("format 2", b"pikepole-directory 2 1 00000000 0\n".to_vec()),
        ("format 9", frame_of(br#"{"format":9}"#)),
        ("the record of the fleet g", frame_of(br#"{"format":1,"fleet":"g"}"#)),
    ];
    for (why, bytes) in cases {
        fs::write(&record, bytes).unwrap();
        let found = store.load(&fleet).await.unwrap_err().to_string();
        assert!(found.contains(why), "{found}");
        assert_eq!(store.load(&fleet).await.unwrap(), None);
    }
    fs::create_dir(&record).unwrap();
    assert!(matches!(store.load(&fleet).await, Err(StoreError::Damaged { .. })), "a folder");
    rustix::fs::mkfifoat(rustix::fs::CWD, &record, 0o600.into()).unwrap();
    assert!(matches!(store.load(&fleet).await, Err(StoreError::Damaged { .. })), "a pipe, not waited for");
    File::create(&record).unwrap().set_len((65 << 20) + 1).unwrap();
    let found = store.load(&fleet).await.unwrap_err().to_string();
    assert!(found.contains("bytes are too many"), "{found}");
    assert_eq!(store.save(&rich_state("f"), None).await.unwrap(), Version(1));
}

#[test]
fn nothing_put_aside_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path().join("fleets")).unwrap();
    let fleet = name("f");
    for n in 1..=25 {
        fs::write(folder.record(&fleet), n.to_string()).unwrap();
        let kept_at = folder.put_aside(&fleet).unwrap();
        assert!(kept_at.ends_with(format!("f.rec.quarantined-{n}")));
    }
    let kept: Vec<u64> = folder.quarantined(&fleet).unwrap();
    assert_eq!(kept, (16..=25).collect::<Vec<_>>());
    for n in kept {
        let path = dir.path().join(format!("fleets/f.rec.quarantined-{n}"));
        assert_eq!(fs::read_to_string(path).unwrap(), n.to_string());
    }
}

#[tokio::test]
async fn a_folder_that_was_taken_away_is_no_empty_store() {
    let (dir, store) = store().await;
    let fleet = name("f");
    let version = store.save(&rich_state("f"), None).await.unwrap();
    let fleets = dir.path().join("directory/fleets");
    let away = dir.path().join("away");
    fs::rename(&fleets, &away).unwrap();
    let unavailable = async |how: &str| {
        let found = store.load(&fleet).await;
        assert!(matches!(found, Err(StoreError::Unavailable(_))), "{how}: {found:?}");
        let found = store.save(&rich_state("f"), Some(version)).await;
        assert!(matches!(found, Err(SaveError::Store(StoreError::Unavailable(_)))), "{how}: {found:?}");
    };
    unavailable("nothing there").await;
    fs::write(&fleets, "a file in its place").unwrap();
    unavailable("a file").await;
    fs::remove_file(&fleets).unwrap();
    fs::create_dir(&fleets).unwrap();
    unavailable("another folder, as after an unmount").await;
    fs::remove_dir(&fleets).unwrap();
    fs::rename(&away, &fleets).unwrap();
    assert_eq!(store.load(&fleet).await.unwrap().unwrap().state, rich_state("f"));

    fs::write(dir.path().join("file"), "").unwrap();
    let refused = FileStore::open(dir.path().join("file")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

/// What can happen to one record.
#[derive(Debug, Clone)]
enum Operation {
    /// Save, with the version that is there, or with another.
    Save { stale: bool },
    /// The process ends, perhaps in the middle of a write, and another one starts.
    Crash { left: Option<prop::sample::Index> },
    /// The record loses its end.
    Cut(prop::sample::Index),
    /// The record has another byte somewhere.
    Change(prop::sample::Index),
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => any::<bool>().prop_map(|stale| Operation::Save { stale }),
        2 => prop::option::of(index()).prop_map(|left| Operation::Crash { left }),
        1 => index().prop_map(Operation::Cut),
        1 => index().prop_map(Operation::Change),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Against the simplest model there is: the last record that was saved and not spoiled.
    #[test]
    fn any_history_leaves_the_last_record_or_reports_damage(
        history in prop::collection::vec((operation(), strategy::state("f")), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(live_through(history));
    }
}

async fn live_through(history: Vec<(Operation, FleetState)>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = FileStore::open(dir.path()).await.unwrap();
    let record = store.folder.record(&name("f"));
    let mut model: Option<Stored> = None;
    for (operation, state) in history {
        let version = model.as_ref().map(|s| s.version);
        let bytes = fs::read(&record).unwrap_or_default();
        let mut spoil = |bytes: &[u8]| {
            fs::write(&record, bytes).unwrap();
            model = None;
        };
        let is_spoiled = match operation {
            Operation::Save { stale: true } => {
                let stale = Some(Version(version.map_or(1, |v| v.0 + 1)));
                assert!(matches!(store.save(&state, stale).await, Err(SaveError::Conflict)));
                false
            }
            Operation::Save { stale: false } => {
                let version = store.save(&state, version).await.unwrap();
                model = Some(Stored { version, state });
                false
            }
            Operation::Crash { left } => {
                drop(store);
                if let Some(left) = left {
                    let next = frame::seal(Version(9), &record::encode(&state).unwrap());
                    fs::write(record.with_extension("rec.tmp"), &next[..left.index(next.len())]).unwrap();
                }
                store = FileStore::open(dir.path()).await.unwrap();
                false
            }
            Operation::Cut(_) | Operation::Change(_) if bytes.is_empty() => false,
            Operation::Cut(at) => {
                spoil(&bytes[..at.index(bytes.len())]);
                true
            }
            Operation::Change(at) => {
                let mut bytes = bytes;
                let at = at.index(bytes.len());
                bytes[at] = bytes[at].wrapping_add(1);
                spoil(&bytes);
                true
            }
        };
        if is_spoiled {
            assert!(matches!(store.load(&name("f")).await, Err(StoreError::Damaged { .. })));
        }
        assert_eq!(store.load(&name("f")).await.unwrap(), model);
    }
}

/// Runs the named test of this module again in a child process that `prepare` may change.
fn run_child(test: &str, dir: &Path, prepare: impl FnOnce(&mut Command)) {
    // Through /proc, so that a child with another user id needs no right to the build folder.
    let mut command = Command::new("/bin/sh");
    // A write over the limit of a file's size shall fail, not kill.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", "/proc/self/fd/0"]);
    command.args([&format!("store::file::tests::{test}"), "--exact", "--nocapture"]);
    command.stdin(File::open(std::env::current_exe().unwrap()).unwrap()).env(CHILD, dir);
    prepare(&mut command);
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("1 passed"), "{stdout}");
}

/// A disk that takes no more bytes. The limit of a file's size stands for it: like a full disk it fails
/// the write in the middle, and unlike one it needs no mount.
#[tokio::test]
async fn a_full_disk_leaves_the_old_record() {
    let Some(dir) = std::env::var_os(CHILD) else {
        let dir = tempfile::tempdir().unwrap();
        return run_child("a_full_disk_leaves_the_old_record", dir.path(), |_| {});
    };
    let store = FileStore::open(dir).await.unwrap();
    let small = FleetState::unknown(name("f"));
    let version = store.save(&small, None).await.unwrap();
    let size = fs::metadata(store.folder.record(&name("f"))).unwrap().len();
    for limit in [0, 1, size - 1, size, size + 1] {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum }).unwrap();
        let found = store.save(&rich_state("f"), Some(version)).await;
        setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
        assert!(matches!(found, Err(SaveError::Store(StoreError::Unavailable(_)))), "{limit}: {found:?}");
        assert_eq!(store.load(&name("f")).await.unwrap().unwrap().state, small);
        assert_eq!(listing(&store.folder, &name("f")), ["f.rec"], "no half-written file stays");
    }
    store.save(&rich_state("f"), Some(version)).await.unwrap();
    assert_eq!(store.load(&name("f")).await.unwrap().unwrap().state, rich_state("f"));
}

/// Permissions mean nothing to root, so as root the child runs as nobody.
#[tokio::test]
async fn a_folder_or_file_without_permission_is_no_damage() {
    const NOBODY: u32 = 65_534;
    let test = "a_folder_or_file_without_permission_is_no_damage";
    let Some(dir) = std::env::var_os(CHILD) else {
        let dir = tempfile::tempdir().unwrap();
        return run_child(test, dir.path(), |command| {
            if rustix::process::geteuid().is_root() {
                chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
                command.uid(NOBODY).gid(NOBODY);
            }
        });
    };
    let store = FileStore::open(dir).await.unwrap();
    let fleet = name("f");
    let version = store.save(&rich_state("f"), None).await.unwrap();
    let record = store.folder.record(&fleet);
    let fleets = record.parent().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    mode(&record, 0o000);
    let found = store.load(&fleet).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "an unreadable file: {found:?}");
    let found = store.save(&rich_state("f"), Some(version)).await;
    assert!(matches!(found, Err(SaveError::Store(StoreError::Unavailable(_)))), "{found:?}");
    mode(&record, 0o600);
    assert_eq!(store.load(&fleet).await.unwrap().unwrap().state, rich_state("f"), "and was left alone");

    mode(fleets, 0o500);
    let found = store.save(&FleetState::unknown(fleet.clone()), Some(version)).await;
    assert!(matches!(found, Err(SaveError::Store(StoreError::Unavailable(_)))), "{found:?}");
    assert_eq!(store.load(&fleet).await.unwrap().unwrap().state, rich_state("f"), "a read-only folder");
    fs::write(&record, "['10.0.0.1:5044']").unwrap();
    let found = store.load(&fleet).await.unwrap_err();
    assert!(matches!(found, StoreError::Unavailable(_)), "damage that cannot be moved: {found:?}");
    assert!(found.to_string().contains("cannot be moved aside"), "{found}");
    mode(fleets, 0o700);
    let found = store.load(&fleet).await;
    assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
    assert_eq!(store.load(&fleet).await.unwrap(), None);
}
