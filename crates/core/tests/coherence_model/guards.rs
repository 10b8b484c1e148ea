//! x
use crate::explore::{Breach, explore};
use crate::world::*;

fn try_out(guard: Guard, world: World) {
    let started = std::time::Instant::now();
    let world = World {
        without: vec![guard].leak(),
        states_max: world.states_max.min(30_000_000),
        ..world
    };
    let explored = explore(&world);
    match explored.found {
        Some(found) => println!(
            "needed {guard:?}: {:?} {} steps, {} states {:?}",
            found.breach,
            found.way.len(),
            explored.states,
            started.elapsed()
        ),
        None => println!("UNSHOWN {guard:?} {} states {:?}", explored.states, started.elapsed()),
    }
}

fn try_pair(without: &'static [Guard], world: World) {
    let world = World { without, ..world };
    let explored = explore(&world);
    println!("pair {without:?} {} {:?}", explored.states, explored.found.map(|x| x.breach));
}
#[test]
fn needed() {
    use Guard::*;
    const W1: World = World { writers: &[PLAIN], readers: &[K0], ..CALM };
    const W2: World = World { writers: &[PLAIN, PLAIN], readers: &[K0, K0], ..CALM };
    const MAKE: World = World { makes: 1, pays: 1, losses: 1, filled: true, ..W1 };
    const REPLICA: World =
        World { second: Second::Replica, failovers: 1, copies: 1, makes: 1, ..W1 };
    const RDB: World = World { second: Second::Rdb, failovers: 1, copies: 1, makes: 1, ..W1 };
    const CRASH: World = World { makes: 1, crashes: 1, asynchronous: true, ..W1 };
    const SAVE: &[Op] = &[Op::Write(A), Op::Name(0), Op::Savepoint, Op::Write(B), Op::RollBack];
    const SETTLE: &[Op] = &[Op::Name(0), Op::Settle, Op::Write(A)];
    const SETTLE_SUB: &[Op] = &[Op::Write(A), Op::Name(0), Op::Savepoint, Op::Settle, Op::RollBack];
    const PREPARE: &[Op] = &[Op::Write(A), Op::Name(0), Op::Prepare];
    const DDL: &[Op] = &[Op::Schema];
    try_out(HitCheck, World { filled: true, ..W2 });
    try_out(FillCheck, W2);
    try_out(Base, MAKE);
    try_out(Generation, World { filled: true, copies: 0, ..REPLICA });
    try_out(SidecarGeneration, World { filled: true, copies: 0, ..RDB });
    try_out(Version, World { writers: &[&[Op::Write(A)]], named: 0, filled: true, ..W1 });
    try_out(Binding, World { filled: true, strangers: 1, ..W1 });
    try_out(LookAgain, W2);
    try_out(KeyTag, World { writers: &[SETTLE], ..W1 });
    try_out(Token, World { expiries: 1, ..W2 });
    try_out(FillSparesForeign, World { strangers: 1, ..W1 });
    try_out(Debt, World { silences: 1, filled: true, ..W1 });
    try_out(Alive, World { readers: &[TWICE], restores: 1, bystanders: 1, ..W1 });
    try_out(ReaderProof, World { filled: true, ..REPLICA });
    try_out(ReaderProof, World { filled: true, ..RDB });
    const MUTE: &[Op] = &[Op::Write(A)];
    try_out(ProofLast, World { writers: &[MUTE], named: 0, filled: true, ..REPLICA });
    try_out(Flush, CRASH);
    try_out(OwnXid, World { writers: &[&[Op::Write(A), Op::Name(0), Op::Read(0)]], ..W1 });
    try_out(Catalogue, World { writers: &[DDL], readers: &[TWICE, TWICE], named: 0, ..W1 });
    try_out(CatalogueWait, World { writers: &[DDL], readers: &[TWICE, TWICE], named: 0, ..W1 });
    try_out(MessagesPass, World { writers: &[DDL, DDL], readers: &[TWICE], named: 0, ..W1 });
    try_out(
        CatalogueGeneration,
        World { writers: &[DDL], readers: &[TWICE], named: 0, has_lost: true, makes: 1, ..W1 },
    );
    try_out(KeepList, W2);
    try_out(FreshP, World { copies: 0, ..REPLICA });
    try_out(LockFirst, World { copies: 0, ..REPLICA });
    try_out(Spoil, World { makes: 1, pays: 1, ..W1 });
    try_pair(
        &[PruneBefore],
        World { makes: 1, prunes: true, named: 0, readers: &[TWICE], writers: &[MUTE], ..W1 },
    );
    try_pair(
        &[PruneBefore, OweGeneration],
        World { makes: 1, prunes: true, named: 0, readers: &[TWICE], writers: &[MUTE], ..W1 },
    );
    try_out(OweProof, World { filled: true, ..REPLICA });
    try_out(OweSilence, World { silences: 1, ..MAKE });
    try_out(OwePrepared, World { writers: &[PREPARE], ..MAKE });
    try_out(OwePreparedFresh, World { writers: &[PREPARE], is_fresh: true, makes: 1, ..W1 });
    const SETTLE_PREPARE: &[Op] = &[Op::Name(0), Op::Settle, Op::Write(A), Op::Prepare];
    try_out(OwePreparedSettled, World { writers: &[SETTLE_PREPARE], ..MAKE });
    try_out(Coarse, World { writers: &[SETTLE], silences: 1, filled: true, ..W1 });
    try_out(BumpFirst, W1);
    try_out(DeleteLease, W2);
    try_out(StoreDeletesLease, World { stores: 1, ..W1 });
    try_out(LockKept, World { writers: &[SETTLE_SUB], ..MAKE });
    try_out(RollBackLevel, World { writers: &[SAVE], filled: true, ..W1 });
    try_out(Claim, MAKE);
    try_out(Lockers, MAKE);
    try_out(BaseAfterLockers, MAKE);
    try_out(KeepLists, World { makes: 1, ..W1 });
    try_out(PruneBefore, World { makes: 1, prunes: true, ..W1 });
    try_out(PayBump, World { silences: 1, pays: 1, filled: true, ..W1 });
    try_out(PayProof, World { pays: 1, silences: 1, filled: true, ..REPLICA });
    try_out(
        Incarnation,
        World {
            writers: &[PLAIN, PLAIN],
            crashes: 1,
            bystanders_before: 1,
            bystanders: 1,
            readers: &[STANDBY],
            ..W1
        },
    );
}
