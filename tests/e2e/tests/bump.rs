//! The script that writes the tag table does what the model of the protocol was checked with.

use pg_cache_core::tag::Bucket;
use pg_cache_core::tagtable::{self, Field};
use pg_cache_testbed::Redis;
use redis::{Connection, Script};

const SEED: u64 = 0x7a67_7461_626c_6531;

/// As many as the script takes at once, and some more.
const BUCKETS: u32 = 1500;

struct Table {
    script: Script,
    key: Vec<u8>,
    connection: Connection,
    /// The generation that bumps.
    generation: &'static str,
}

impl Table {
    fn new(redis: &Redis) -> Self {
        let script = Script::new(include_str!("../../../src/client/lua/bump_1.lua"));
        Table { script, key: tagtable::key(7, 5, 0), connection: redis.client(), generation: "abc" }
    }

    fn bump(&mut self, x: u64, xmax: u64, running: &[u64], buckets: &[Bucket]) -> Option<String> {
        let running: Vec<String> = running.iter().map(u64::to_string).collect();
        let mut call = self.script.key(&self.key[..]);
        call.arg(self.generation).arg(x).arg(xmax).arg(running.join(","));
        for bucket in buckets {
            call.arg(bucket.field());
        }
        call.invoke(&mut self.connection).unwrap()
    }

    fn field(&mut self, bucket: Bucket) -> Field {
        let mut ask = redis::cmd("HGET");
        let found: Option<Vec<u8>> =
            ask.arg(&self.key).arg(bucket.field()).query(&mut self.connection).unwrap();
        Field::parse(found.as_deref()).expect("the script writes fields that can be read")
    }
}

#[test]
fn the_script_bumps_as_the_reference_does() {
    // Danger: the model proves one thing and the server does another.
    let mut random = fastrand::Rng::with_seed(SEED);
    println!("seed {SEED:#x}");
    let redis = Redis::start();
    let mut table = Table::new(&redis);
    // Beyond 32 bits, as transaction IDs are in an old cluster.
    let first = u64::from(u32::MAX) - 200;
    let mut known: Vec<(Bucket, Field)> = [Bucket::CATALOGUE, Bucket(0), Bucket(65_535)]
        .map(|bucket| (bucket, Field::default()))
        .into();
    for turn in 0..2000 {
        let xmax = first + random.u64(turn / 4..turn / 4 + 40);
        let running: Vec<u64> = (0..random.usize(0..6)).map(|_| xmax - random.u64(1..60)).collect();
        let x = xmax + random.u64(0..20) - 10;
        let some: Vec<usize> = (0..known.len()).filter(|_| random.bool()).collect();
        let buckets: Vec<Bucket> = some.iter().map(|place| known[*place].0).collect();
        table.bump(x, xmax, &running, &buckets);
        let in_progress = |xid| running.contains(&xid) || xid >= xmax;
        for place in some {
            let (bucket, before) = &known[place];
            let found = table.field(*bucket);
            assert!(known.iter().all(|(_, field)| field.version < found.version), "{turn}");
            let expected = tagtable::bump(before, found.version, x, &in_progress);
            assert_eq!(found, expected, "turn {turn}, {bucket:?}");
            known[place].1 = found;
        }
    }
    assert!(known.iter().any(|(_, field)| field.xids.len() > 3), "no list had anybody to keep");
}

#[test]
fn a_table_never_gives_out_a_version_twice() {
    // Danger: the version comes again that an entry was stored with. Also across the steps of one
    // call, and in a stub that becomes a table.
    let redis = Redis::start();
    let mut table = Table::new(&redis);
    let buckets: Vec<Bucket> = (0..BUCKETS).map(Bucket).collect();
    assert_eq!(table.bump(9, 9, &[], &buckets), None, "a stub has no generation");
    let mut versions: Vec<u64> = buckets.iter().map(|b| table.field(*b).version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=u64::from(BUCKETS)).collect::<Vec<u64>>());
    let key = table.key.clone();
    let () = redis::cmd("HSET").arg(&key).arg("R").arg("abc").query(&mut table.connection).unwrap();
    assert_eq!(table.bump(10, 10, &[], &buckets[..1]).as_deref(), Some("abc"));
    let field = table.field(buckets[0]);
    assert_eq!(field, Field { version: u64::from(BUCKETS) + 1, xids: vec![10] });
}

#[test]
fn a_full_redis_does_not_keep_a_writer_from_its_bump() {
    // Danger: out of memory, the one command that keeps readers right is refused.
    let redis = Redis::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let mut table = Table::new(&redis);
    let refused: redis::RedisResult<()> =
        redis::cmd("SET").arg("k").arg("v").query(&mut table.connection);
    assert!(refused.is_err(), "this Redis is not full");
    table.bump(9, 9, &[], &[Bucket(3)]);
    assert_eq!(table.field(Bucket(3)), Field { version: 1, xids: vec![9] });
}

#[test]
fn a_bump_of_another_generation_drops_nobody() {
    // Danger: sent before a crash and arriving after it, it takes the new owner of a transaction ID
    // for the old one, which its snapshot saw complete; and an old value is filled.
    let redis = Redis::start();
    let mut table = Table::new(&redis);
    let bucket = Bucket(1);
    table.bump(3, 4, &[], &[bucket]);
    let key = table.key.clone();
    let own = |table: &mut Table, generation: &str| {
        redis::cmd("HSET").arg(&key).arg("R").arg(generation).exec(&mut table.connection).unwrap();
    };
    own(&mut table, "other");
    table.bump(4, 4, &[], &[bucket]);
    assert_eq!(table.field(bucket).xids, [4, 3]);
    own(&mut table, "abc");
    table.bump(5, 5, &[], &[bucket]);
    assert_eq!(table.field(bucket).xids, [5], "its own generation drops, whoever came before");
    table.generation = "";
    assert_eq!(table.bump(6, 6, &[], &[bucket]), None, "one of a former run ends it");
}
