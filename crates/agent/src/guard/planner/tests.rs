use proptest::prelude::*;

use super::*;

const MB: u64 = 1 << 20;

fn rotated(age: u64, size: u64) -> File {
    File {
        class: Class::Rotated,
        is_protected: false,
        is_fresh: false,
        is_written: false,
        is_open: false,
        is_compressed: false,
        is_incompressible: false,
        is_spent: false,
        len: size,
        allocated: size,
        modified: Timestamp::from_millis(1_000_000 - age),
    }
}

fn live(size: u64) -> File {
    File { class: Class::Live, is_fresh: true, is_written: true, is_open: true, ..rotated(0, size) }
}

fn room(free: u64) -> Room {
    Room { free, min_free: 100 * MB, goal: 110 * MB }
}

#[test]
fn each_policy_does_what_the_gentler_ones_do_first() {
    let mut files = vec![live(50 * MB), rotated(5, MB), rotated(9, MB), live(60 * MB)];
    let mut done = Vec::new();
    while let Some(step) = next(Policy::Truncate, &room(90 * MB), &files) {
        done.push(step);
        match step {
            Step::Compress(index) => files[index].is_compressed = true,
            Step::Delete(index) | Step::Truncate(index) => files[index].is_spent = true,
        }
    }
    let [compress, delete, truncate] = [Step::Compress, Step::Delete, Step::Truncate];
    assert_eq!(done, [compress(2), compress(1), delete(2), delete(1), truncate(3), truncate(0)]);
    let files = [live(MB), rotated(1, MB)];
    assert_eq!(next(Policy::Alert, &room(0), &files), None);
    assert_eq!(next(Policy::CompressRotated, &room(90 * MB), &files[..1]), None);
    assert_eq!(next(Policy::DeleteOldestRotated, &room(0), &files[..1]), None);
}

#[test]
fn a_disk_that_is_nearly_full_does_not_wait_for_gzip_if_more_is_allowed() {
    let files = [rotated(1, MB)];
    assert_eq!(next(Policy::DeleteOldestRotated, &room(49 * MB), &files), Some(Step::Delete(0)));
    assert_eq!(next(Policy::CompressRotated, &room(49 * MB), &files), Some(Step::Compress(0)));
    assert_eq!(next(Policy::CompressRotated, &room(12 * MB), &files), None, "no room for it");
}

fn file() -> impl Strategy<Value = File> {
    let flags = proptest::collection::vec(any::<bool>(), 7);
    let class = prop_oneof![Just(Class::Rotated), Just(Class::Live), Just(Class::Other)];
    (class, flags, 0..40u64 * MB, 0u64..1000).prop_map(|(class, flags, size, age)| File {
        class,
        is_protected: flags[0] && flags[1],
        is_fresh: flags[2],
        is_written: flags[3],
        is_open: flags[3] || flags[4],
        is_compressed: flags[5],
        is_incompressible: flags[6],
        ..rotated(age, size)
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Alert),
        Just(Policy::CompressRotated),
        Just(Policy::DeleteOldestRotated),
        Just(Policy::Truncate)
    ]
}

proptest! {
    #[test]
    fn it_touches_only_what_it_may_never_more_than_needed_and_ends(
        mut files in proptest::collection::vec(file(), 0..40), policy in policy(), free in 0..120 * MB,
    ) {
        let mut room = room(free);
        let mut steps = 0;
        while let Some(step) = next(policy, &room, &files) {
            steps += 1;
            prop_assert!(steps <= 3 * files.len(), "does not end");
            prop_assert!(room.free < room.goal, "more than needed");
            let (Step::Compress(index) | Step::Delete(index) | Step::Truncate(index)) = step;
            let oldest = |f: &File| f.class == Class::Rotated && !f.is_fresh && !f.is_written
                && !f.is_protected && !f.is_spent && f.allocated > 0;
            let older = files.iter().any(|f| oldest(f) && f.modified < files[index].modified);
            let any_settled = files.iter().any(oldest);
            let file = &mut files[index];
            prop_assert!(!file.is_protected && file.class != Class::Other && !file.is_spent);
            prop_assert!(policy > Policy::Alert);
            match step {
                Step::Compress(_) => {
                    prop_assert!(file.class == Class::Rotated && !file.is_open && !file.is_fresh);
                    prop_assert!(!file.is_compressed && !file.is_incompressible);
                    file.is_compressed = true;
                    room.free += file.allocated / 2;
                    file.allocated -= file.allocated / 2;
                }
                Step::Delete(_) => {
                    prop_assert!(policy >= Policy::DeleteOldestRotated && !older);
                    prop_assert!(file.class == Class::Rotated && !file.is_written && !file.is_fresh);
                    file.is_spent = true;
                    room.free += file.allocated;
                }
                Step::Truncate(_) => {
                    prop_assert!(policy == Policy::Truncate && !any_settled);
                    file.is_spent = true;
                    room.free += file.allocated;
                }
            }
        }
        let has_rest = files.iter().any(|f| !f.is_protected && !f.is_spent && f.class != Class::Other
            && f.allocated > 0);
        prop_assert!(policy < Policy::Truncate || room.free >= room.goal || !has_rest, "gave up too soon");
    }
}
