//! Random sequences of everything that can happen, against the model.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Append(usize),
    Mark,
    Begin,
    End,
    Commit,
    Done(usize, bool),
    Reopen,
    Close,
    Crash(u64),
    Fail(u8, u64),
    Heal,
    Fill(u64),
    Flip(usize, usize),
    Refuse(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    prop_oneof![
        12 => (0usize..900).prop_map(O::Append),
        1 => (3000usize..9000).prop_map(O::Append),
        3 => Just(O::Mark),
        3 => Just(O::Begin),
        3 => Just(O::End),
        6 => Just(O::Commit),
        10 => (0usize..6, any::<bool>()).prop_map(|(nth, newest)| O::Done(nth, newest)),
        1 => Just(O::Reopen),
        1 => Just(O::Close),
        2 => any::<u64>().prop_map(O::Crash),
        2 => (0u8..5, 0u64..12).prop_map(|(what, nth)| O::Fail(what, nth)),
        3 => Just(O::Heal),
        1 => (0u64..30_000).prop_map(O::Fill),
        2 => any::<(usize, usize)>().prop_map(|(nth, bit)| O::Flip(nth, bit)),
        1 => any::<usize>().prop_map(O::Refuse),
    ]
}

fn perform(world: &mut World, operation: &Operation) {
    match operation {
        Operation::Append(len) => world.append(*len),
        Operation::Mark => world.mark(),
        Operation::Begin => world.begin(),
        Operation::End => world.end(),
        Operation::Commit => world.commit(),
        Operation::Done(nth, newest) => world.done(*nth, *newest),
        Operation::Reopen => world.reopen(),
        Operation::Close => world.close(),
        Operation::Crash(bits) => world.crash(*bits),
        Operation::Fail(what, nth) => {
            let (call, fault) = [
                (Call::Change, Fault::Io),
                (Call::Change, Fault::Full),
                (Call::Change, Fault::Stop),
                (Call::Sync, Fault::Io),
                (Call::Read, Fault::Io),
            ][usize::from(*what)];
            world.disk.fail(call, *nth, fault);
        }
        Operation::Heal => {
            world.disk.heal();
            world.disk.set_capacity(1 << 30);
        }
        Operation::Flip(nth, bit) => world.flip(*nth, *bit),
        Operation::Refuse(nth) => world.refuse(*nth),
        Operation::Fill(spare) => {
            world.disk.set_capacity(1 << 30);
            let free = world.disk.free().unwrap_or(1 << 30);
            world.disk.set_capacity((1 << 30) - free + spare);
        }
    }
}

proptest! {
    #[test]
    fn the_spool_does_what_the_model_does(
        operations in proptest::collection::vec(operation(), 1..120),
        drops in any::<bool>(),
        max_bytes in prop_oneof![Just(1_u64 << 20), Just(40_000)],
    ) {
        let when_full = if drops { WhenFull::DropOldest } else { WhenFull::Block };
        let mut world = World::new(Options { when_full, max_bytes, ..options() });
        for operation in &operations {
            perform(&mut world, operation);
            world.check_blocks();
        }
        world.disk.heal();
        world.disk.set_capacity(1 << 30);
        world.commit();
        world.commit();
        world.append(50);
        world.commit();
        world.crash(0);
    }
}
