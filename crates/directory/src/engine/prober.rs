//! Asks whether the port of a new collector is open: AWS says `InService` when the machine runs, and a
//! collector may need a minute more.
//!
//! Only a TCP connection that is closed at once; nothing is sent. Only the replica that describes probes.
//!
//! Invariant: a probe that fails holds a newcomer back for a time, and never takes anyone out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pikepole_fleet::{FleetName, FleetState, Input, InstanceId, Life, MemberState, Probed};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Engine, Fleet};
use crate::shutdown::Shutdown;

/// One try lasts no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries at one newcomer.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// The same once it was given up, to see when it answers after all.
const RETRY_GIVEN_UP: Duration = Duration::from_secs(15);
/// Between two looks at who wants a probe.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is tried whether a fleet that never answered us does so now.
const REACH_EVERY: Duration = Duration::from_secs(60);
/// Members that are asked whether anyone of a fleet answers us.
const PEERS: usize = 3;
/// Connections under way at once.
const MAX_PROBES: usize = 64;

type Place = (FleetName, InstanceId);

/// Whether a collector that is in service is held back until its port answers.
pub(super) fn is_awaiting(state: &FleetState) -> bool {
    let awaited = |life: &Life| life.awaited && life.in_service.is_some() && life.wants_probe();
    state.lives.iter().any(|(_, life)| awaited(life))
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
struct Rounds {
    busy: BTreeSet<Place>,
    next: BTreeMap<Place, Instant>,
    reach: BTreeMap<FleetName, Instant>,
}

/// Probes until the shutdown.
pub(super) async fn run(engine: Arc<Engine>, mut shutdown: Shutdown) {
    if !engine.probe.enabled {
        return;
    }
    let mut rounds = Rounds::default();
    let mut probes = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_PROBES));
    loop {
        if engine.may_describe() {
            look(&engine, &mut rounds, &mut probes, &places);
        }
        tokio::select! {
            () = shutdown.wait() => return,
            Some(done) = probes.join_next(), if !probes.is_empty() => {
                if let Ok(Some(place)) = done {
                    rounds.busy.remove(&place);
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn look(
    engine: &Arc<Engine>,
    rounds: &mut Rounds,
    probes: &mut JoinSet<Option<Place>>,
    places: &Arc<Semaphore>,
) {
    let now = Instant::now();
    rounds.next.retain(|_, next| now < *next + RETRY_GIVEN_UP * 2);
    for fleet in engine.fleets() {
        let state = fleet.state();
        for (id, life) in state.lives.iter() {
            let is_silent = life.given_up.is_some() && life.answered.is_none() && !life.is_leaving();
            let wants = life.wants_probe() || (is_silent && life.gone.is_none());
            if !wants {
                continue;
            }
            let place = (fleet.config().name.clone(), id.clone());
            if rounds.busy.contains(&place) || rounds.next.get(&place).is_some_and(|next| now < *next) {
                continue;
            }
            let every = if is_silent { RETRY_GIVEN_UP } else { TRY_EVERY };
            rounds.next.insert(place.clone(), now + every);
            rounds.busy.insert(place.clone());
            let (engine, fleet, places) = (Arc::clone(engine), Arc::clone(fleet), Arc::clone(places));
            let life = life.clone();
            probes.spawn(async move {
                let _turn = places.acquire_owned().await;
                probe(&engine, &fleet, &place.1, &life).await;
                Some(place)
            });
        }
        let name = &fleet.config().name;
        if !fleet.answers_us() && rounds.reach.get(name).is_none_or(|next| *next <= now) {
            if state.roster.is_none() {
                continue; // nobody to ask yet
            }
            rounds.reach.insert(name.clone(), now + REACH_EVERY);
            let fleet = Arc::clone(fleet);
            probes.spawn(async move {
                if anyone_answers(&fleet.state(), None).await {
                    fleet.set_answers_us(true);
                }
                None
            });
        }
    }
}

async fn probe(engine: &Engine, fleet: &Fleet, id: &InstanceId, life: &Life) {
    let state = fleet.state();
    let address = state.snapshot.as_ref().and_then(|s| s.get(id)).and_then(|i| i.address);
    let answered = match address {
        Some(address) => answers(address).await,
        None => false,
    };
    let told = |result| Input::Probed { instance: id.clone(), result };
    if answered {
        fleet.set_answers_us(true);
        tracing::info!(fleet = %fleet.config().name, instance = %id, "port answers");
        engine.apply(fleet, told(Probed::Answered)).await;
        engine.hooks.look();
        return;
    }
    if life.given_up.is_some() {
        return;
    }
    let since = life.launched.or(life.in_service);
    let waited = since.map_or(Duration::ZERO, |since| engine.clock().now().since(since));
    if waited >= engine.probe.give_up {
        tracing::warn!(fleet = %fleet.config().name, instance = %id, ?address, "port never answered; listed anyway");
        engine.apply(fleet, told(Probed::GaveUp)).await;
        engine.hooks.look();
    } else if life.launched.is_none() && address.is_some() && !anyone_answers(&state, Some(id)).await {
        // In service out of nowhere, and silent like all the others: that says something about us.
        fleet.set_answers_us(false);
        tracing::info!(fleet = %fleet.config().name, instance = %id, "nobody of this fleet answers us; listed");
        engine.apply(fleet, told(Probed::Waived)).await;
    }
}

/// Whether any of a few members that serve answers us.
async fn anyone_answers(state: &FleetState, but: Option<&InstanceId>) -> bool {
    let members = state.roster.iter().flat_map(|roster| roster.members());
    let serving = members.filter(|m| m.state == MemberState::Active && Some(&m.instance_id) != but);
    let mut asked: Vec<SocketAddr> = serving.map(|m| m.address).collect();
    fastrand::shuffle(&mut asked);
    let asked = asked.into_iter().take(PEERS).map(answers);
    futures_util::future::join_all(asked).await.contains(&true)
}

async fn answers(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await, Ok(Ok(_)))
}
