//! What every store must do, run on the file store and on a real Redis. Faults that only one of them can
//! have are tested beside it.

use std::sync::Arc;

use pikepole_fleet::{Fact, FactKind, FleetName, FleetState, GuardPolicy, Input, Timestamp};
use tokio::task::JoinSet;

use super::record::strategy::rich_state;
use super::{SaveError, Store, StoreError};

const WRITERS: u64 = 8;
const WRITES_EACH: u64 = 10;

pub(super) fn name(text: &str) -> FleetName {
    text.parse().unwrap()
}

/// A store keeps what it is given and lets nobody write over what they have not seen.
pub(super) async fn keeps_one_record_a_fleet(store: Arc<dyn Store>) {
    let fleet = name("kept");
    assert_eq!(store.load(&fleet).await.unwrap(), None);
    let unknown = FleetState::unknown(fleet.clone());
    let early = store.save(&unknown, Some(super::Version(1))).await;
    assert!(matches!(early, Err(SaveError::Conflict)), "{early:?}");
    assert_eq!(store.load(&fleet).await.unwrap(), None);

    let first = store.save(&unknown, None).await.unwrap();
    let stored = store.load(&fleet).await.unwrap().unwrap();
    assert_eq!((stored.version, &stored.state), (first, &unknown));

    let rich = rich_state("kept");
    let second = store.save(&rich, Some(first)).await.unwrap();
    assert!(second > first);
    for expected in [None, Some(first), Some(super::Version(second.0 + 1))] {
        let late = store.save(&unknown, expected).await;
        assert!(matches!(late, Err(SaveError::Conflict)), "{late:?}");
    }
    let stored = store.load(&fleet).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.state), (second, rich));
    assert_eq!(store.load(&name("other")).await.unwrap(), None);
}

/// Names that look like paths or like our own suffixes are names like all others.
pub(super) async fn takes_every_name(store: Arc<dyn Store>) {
    let longest = "x".repeat(128);
    let names =
        [".", "..", "...", ".a", "a", "a.rec", "a.rec.tmp", "a.rec.quarantined-1", "-", "A", &longest];
    for text in names {
        store.save(&rich_state(text), None).await.unwrap();
    }
    for text in names {
        assert_eq!(store.load(&name(text)).await.unwrap().unwrap().state, rich_state(text), "{text}");
    }
}

/// Writers that race each land every write once, and none is lost.
pub(super) async fn loses_no_write_of_a_race(store: Arc<dyn Store>) {
    let fleet = name("raced");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, fleet) = (Arc::clone(&store), fleet.clone());
        writers.spawn(async move {
            for n in 0..WRITES_EACH {
                learn(&*store, &fleet, &format!("i-{writer}-{n}")).await;
            }
        });
    }
    writers.join_all().await;
    let stored = store.load(&fleet).await.unwrap().unwrap();
    let entries = usize::try_from(WRITERS * WRITES_EACH).unwrap();
    assert_eq!(stored.state.overlay.entries.len(), entries, "each writer's facts are all there");
}

/// Adds one fact to a fleet, however many others do the same.
pub(super) async fn learn(store: &dyn Store, fleet: &FleetName, id: &str) {
    let at = Timestamp::from_millis(1);
    loop {
        let stored = store.load(fleet).await.unwrap();
        let expected = stored.as_ref().map(|s| s.version);
        let mut state = stored.map_or_else(|| FleetState::unknown(fleet.clone()), |s| s.state);
        let fact = Fact { instance: id.parse().unwrap(), kind: FactKind::Terminating, at };
        state.apply(Input::Learned(fact), &GuardPolicy::default(), at);
        match store.save(&state, expected).await {
            Ok(version) => {
                assert!(Some(version) > expected);
                return;
            }
            Err(SaveError::Conflict) => {}
            Err(SaveError::Store(e)) => panic!("{e}"),
        }
    }
}

/// A record that is none is reported once, by whichever call meets it, and then it is gone.
pub(super) async fn reports_damage_once(store: Arc<dyn Store>, spoil: impl AsyncFn(&FleetName)) {
    let fleet = name("spoiled");
    let rich = rich_state("spoiled");
    let version = store.save(&rich, None).await.unwrap();
    spoil(&fleet).await;
    let found = store.load(&fleet).await;
    assert!(matches!(found, Err(StoreError::Damaged { .. })), "{found:?}");
    assert_eq!(store.load(&fleet).await.unwrap(), None);
    let conflict = store.save(&rich, Some(version)).await;
    assert!(matches!(conflict, Err(SaveError::Conflict)), "{conflict:?}");
    let version = store.save(&rich, None).await.unwrap();

    spoil(&fleet).await;
    let found = store.save(&rich, Some(version)).await;
    assert!(matches!(found, Err(SaveError::Store(StoreError::Damaged { .. }))), "{found:?}");
    store.save(&rich, None).await.unwrap();
    assert_eq!(store.load(&fleet).await.unwrap().unwrap().state, rich);
}
