//! A file system in memory that fails on demand, for tests: it loses what was not synced, tears what was being written,
//! runs full, flips bits, and counts what is read.
//!
//! Not fast. Invariant: after a crash a file has what was synced, plus any of the sectors that were written since; a name
//! that was made, or taken away, or both, since the last sync of the folder is there or not.

mod fault;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fault::Lasting;
pub use fault::{Call, Fault};

use super::{Entry, File, Files};

/// Torn at this granularity.
const SECTOR: usize = 512;

#[derive(Debug, Default, Clone)]
struct Data {
    now: Vec<u8>,
    synced: Vec<u8>,
    allocated: u64,
}

#[derive(Default)]
struct Inner {
    /// Files by number; a file lives on while its number is known.
    data: BTreeMap<u64, Data>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    /// Made and taken away since the folder was synced.
    ghosts: Vec<(String, u64)>,
    next: u64,
    capacity: u64,
    fault: Option<(Call, Fault, u64)>,
    lasting: Vec<Lasting>,
    is_stopped: bool,
    calls: BTreeMap<&'static str, u64>,
    read_bytes: u64,
    opened: Vec<String>,
}

/// The file system. Clones share it.
#[derive(Clone)]
pub struct Faulty(Arc<Mutex<Inner>>);

struct FaultyFile {
    disk: Faulty,
    id: u64,
}

impl Default for Faulty {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { capacity: u64::MAX / 2, ..Inner::default() })))
    }
}

impl Faulty {
    /// Bytes of the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Lets the nth such call from now on fail; 0 is the next one.
    pub fn fail(&self, call: Call, nth: u64, fault: Fault) {
        self.lock().fault = Some((call, fault, nth));
    }

    /// Lets this call (`open`, `allocate`, …) fail from now on, each time; for this file alone if one is named.
    pub fn fail_always(&self, what: &'static str, name: Option<&str>, fault: Fault) {
        let lasting = Lasting { what, name: name.map(String::from), range: 0..u64::MAX, fault };
        self.lock().lasting.push(lasting);
    }

    /// Lets reads of this part of a file fail from now on, each time.
    pub fn fail_reads(&self, name: &str, range: Range<u64>, fault: Fault) {
        let lasting = Lasting { what: "read", name: Some(name.to_string()), range, fault };
        self.lock().lasting.push(lasting);
    }

    /// No call fails any more. Says whether one that was to fail did not come.
    pub fn heal(&self) -> bool {
        let mut inner = self.lock();
        inner.is_stopped = false;
        inner.lasting.clear();
        inner.fault.take().is_some()
    }

    /// The machine goes down and comes back. `keep` says, one bit after the other, which sectors and names survive that
    /// were not synced.
    pub fn crash(&self, mut keep: impl FnMut() -> bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        (inner.is_stopped, inner.fault) = (false, None);
        inner.lasting.clear();
        for data in inner.data.values_mut() {
            data.now = survivors(data, &mut keep);
            data.synced = data.now.clone();
        }
        let old = std::mem::take(&mut inner.synced_names);
        let mut names = std::mem::take(&mut inner.names);
        for (name, id) in &old {
            if names.get(name) != Some(id) && keep() {
                // A file that was renamed has one name only.
                names.retain(|_, other| other != id);
                names.insert(name.clone(), *id);
            }
        }
        names.retain(|name, id| old.get(name) == Some(id) || keep() || old.values().any(|other| other == id));
        for (name, id) in inner.ghosts.drain(..) {
            let is_free = !names.contains_key(&name) && !names.values().any(|other| *other == id);
            if is_free && keep() {
                names.insert(name, id);
            }
        }
        inner.synced_names = names.clone();
        inner.data.retain(|id, _| names.values().any(|other| other == id));
        inner.names = names;
    }

    /// Flips a bit of a file, on the disk too.
    pub fn flip(&self, name: &str, bit: usize) {
        let mut inner = self.lock();
        let id = inner.names[name];
        let data = inner.data.get_mut(&id).expect("names lead to files");
        data.now[bit / 8] ^= 1 << (bit % 8);
        data.synced = data.now.clone();
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.lock();
        inner.data[&inner.names[name]].now.clone()
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.lock();
        let id = inner.names.get(name).copied().unwrap_or(inner.next);
        inner.next += 1;
        inner.data.insert(id, Data { synced: bytes.clone(), now: bytes, allocated: 0 });
        inner.names.insert(name.to_string(), id);
        inner.synced_names.insert(name.to_string(), id);
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> Self {
        let inner = self.lock();
        let (data, names, synced_names) =
            (inner.data.clone(), inner.names.clone(), inner.synced_names.clone());
        let (ghosts, next, capacity) = (inner.ghosts.clone(), inner.next, inner.capacity);
        let copy = Inner { data, names, synced_names, ghosts, next, capacity, ..Inner::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// The names of all files, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Will this file have this name after a crash, whatever survives of what was not synced?
    pub fn is_name_durable(&self, name: &str) -> bool {
        let inner = self.lock();
        inner.names.get(name).is_some_and(|id| inner.synced_names.get(name) == Some(id))
    }

    /// Bytes that were read, and the files that were opened, since this was asked last.
    pub fn take_reads(&self) -> (u64, Vec<String>) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.read_bytes), std::mem::take(&mut inner.opened))
    }

    /// How often this was called.
    pub fn calls(&self, what: &'static str) -> u64 {
        self.lock().calls.get(what).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: fails if it is to.
    fn call(
        &self,
        what: &'static str,
        call: Call,
    ) -> Result<MutexGuard<'_, Inner>, (io::Error, MutexGuard<'_, Inner>)> {
        let mut inner = self.lock();
        *inner.calls.entry(what).or_default() += 1;
        if inner.is_stopped {
            return Err((io::Error::other("the machine stopped"), inner));
        }
        let is_meant = |of: Call| of == call || (of == Call::Change && call == Call::Sync);
        match &mut inner.fault {
            Some((of, fault, nth)) if is_meant(*of) => {
                if *nth > 0 {
                    *nth -= 1;
                    return Ok(inner);
                }
                let fault = *fault;
                inner.is_stopped = fault == Fault::Stop;
                inner.fault = None;
                Err((fault.error(what), inner))
            }
            _ => Ok(inner),
        }
    }
}

/// What is left of a file after a crash.
fn survivors(data: &Data, keep: &mut impl FnMut() -> bool) -> Vec<u8> {
    let mut bytes = data.synced.clone();
    let is_longer = data.now.len() > bytes.len();
    if data.now.len() < bytes.len() && keep() {
        bytes.truncate(data.now.len());
    }
    // A file may get its length before its bytes.
    if is_longer && keep() {
        bytes.resize(data.now.len(), 0);
    }
    for (n, sector) in data.now.chunks(SECTOR).enumerate() {
        let (from, end) = (n * SECTOR, n * SECTOR + sector.len());
        let is_same = data.synced.get(from..end) == Some(sector);
        if is_same || !keep() {
            continue;
        }
        if bytes.len() < end && bytes.len() >= from {
            bytes.resize(end, 0);
        }
        if bytes.len() >= end {
            bytes[from..end].copy_from_slice(sector);
        }
    }
    bytes
}

impl Inner {
    fn used(&self) -> u64 {
        let held = |id: &u64| self.data.get(id).map_or(0, |data| data.allocated.max(data.now.len() as u64));
        self.names.values().map(held).sum()
    }

    /// Fails if this is to fail each time.
    fn lasting(&self, what: &str, id: u64, range: Range<u64>) -> io::Result<()> {
        let is_meant = |lasting: &&Lasting| {
            let is_file = lasting.name.as_ref().is_none_or(|name| self.names.get(name) == Some(&id));
            let is_there = lasting.range.start < range.end && range.start < lasting.range.end;
            lasting.what == what && is_file && is_there
        };
        self.lasting.iter().find(is_meant).map_or(Ok(()), |lasting| Err(lasting.fault.error(what)))
    }

    fn id(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn forget_unnamed(&mut self) {
        let ghosts = self.ghosts.iter().map(|(_, id)| id);
        let named: BTreeSet<u64> =
            self.names.values().chain(self.synced_names.values()).chain(ghosts).copied().collect();
        self.data.retain(|id, _| named.contains(id));
    }
}

impl Files for Faulty {
    fn list(&self, subfolder: Option<&str>) -> io::Result<Vec<Entry>> {
        let inner = self.call("list", Call::Read).map_err(|(error, _)| error)?;
        let prefix = subfolder.map_or_else(String::new, |name| format!("{name}/"));
        let own =
            |name: &String| name.strip_prefix(&prefix).filter(|rest| !rest.contains('/')).map(String::from);
        let entry = |(name, id): (&String, &u64)| {
            Some(Entry { name: own(name)?, len: inner.data[id].now.len() as u64 })
        };
        Ok(inner.names.iter().filter_map(entry).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.call("create", Call::Change).map_err(|(error, _)| error)?;
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = inner.next;
        inner.next += 1;
        inner.data.insert(id, Data::default());
        inner.names.insert(name.to_string(), id);
        Ok(Arc::new(FaultyFile { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.call("open", Call::Read).map_err(|(error, _)| error)?;
        let id = inner.id(name)?;
        inner.lasting("open", id, 0..1)?;
        inner.opened.push(name.to_string());
        Ok(Arc::new(FaultyFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.call("rename", Call::Change).map_err(|(error, _)| error)?;
        let id = inner.id(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_string(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.call("remove", Call::Change).map_err(|(error, _)| error)?;
        let id = inner.id(name)?;
        inner.names.remove(name);
        if inner.synced_names.get(name) != Some(&id) {
            inner.ghosts.push((name.to_string(), id));
        }
        // Its room comes free at once; what it held may come back after a crash.
        let data = inner.data.get_mut(&id).expect("names lead to files");
        data.allocated = 0;
        inner.forget_unnamed();
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut inner = self.call("sync_folder", Call::Sync).map_err(|(error, _)| error)?;
        inner.synced_names = inner.names.clone();
        inner.ghosts.clear();
        inner.forget_unnamed();
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let inner = self.call("free", Call::Read).map_err(|(error, _)| error)?;
        Ok(inner.capacity.saturating_sub(inner.used()))
    }
}

impl File for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.call("read", Call::Read).map_err(|(error, _)| error)?;
        inner.lasting("read", self.id, offset..offset + buf.len() as u64)?;
        let offset = usize::try_from(offset).expect("small files");
        let Some(data) = inner.data.get(&self.id) else { return Ok(0) };
        let there = data.now.get(offset..).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        inner.read_bytes += len as u64;
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).expect("small files");
        let (mut inner, fault) = match self.disk.call("write", Call::Change) {
            Ok(inner) => (inner, None),
            Err((error, inner)) => (inner, Some(error)),
        };
        let spare = inner.capacity.saturating_sub(inner.used());
        let Some(data) = inner.data.get_mut(&self.id) else { return Ok(buf.len()) };
        let held = data.allocated.max(data.now.len() as u64).saturating_add(spare);
        let room = usize::try_from(held).unwrap_or(usize::MAX).saturating_sub(offset);
        let len = if fault.is_some() { buf.len() / 2 } else { buf.len() }.min(room);
        if data.now.len() < offset + len {
            data.now.resize(offset + len, 0);
        }
        data.now[offset..offset + len].copy_from_slice(&buf[..len]);
        match fault {
            Some(error) => Err(error),
            None if len == 0 => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(len),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.call("truncate", Call::Change).map_err(|(error, _)| error)?;
        if let Some(data) = inner.data.get_mut(&self.id) {
            data.now.resize(usize::try_from(len).expect("small files"), 0);
            data.allocated = 0;
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.call("allocate", Call::Change).map_err(|(error, _)| error)?;
        inner.lasting("allocate", self.id, 0..1)?;
        let spare = inner.capacity.saturating_sub(inner.used());
        let Some(data) = inner.data.get_mut(&self.id) else { return Ok(()) };
        if len > data.allocated.max(data.now.len() as u64).saturating_add(spare) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        data.allocated = data.allocated.max(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let called = self.disk.call("sync", Call::Sync);
        let called = called.and_then(|inner| match inner.lasting("sync", self.id, 0..1) {
            Ok(()) => Ok(inner),
            Err(error) => Err((error, inner)),
        });
        match called {
            Ok(mut inner) => {
                if let Some(data) = inner.data.get_mut(&self.id) {
                    data.synced = data.now.clone();
                }
                Ok(())
            }
            Err((error, mut inner)) => {
                // As Linux does: what could not be written is forgotten, and the next sync has nothing to complain about.
                // What a reader sees until then stays.
                let is_stopped = inner.is_stopped;
                if let (false, Some(data)) = (is_stopped, inner.data.get_mut(&self.id)) {
                    data.now = data.synced.clone();
                }
                Err(error)
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        let inner = self.disk.call("size", Call::Read).map_err(|(error, _)| error)?;
        Ok(inner.data.get(&self.id).map_or(0, |data| data.now.len() as u64))
    }
}
