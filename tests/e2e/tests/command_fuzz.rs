//! After whatever an ordinary role may send, the connection answers what it is asked.

use pg_cache_e2e::Scene;
use pg_cache_e2e::outcome::{sqlstate, words};
use postgres::Client;
use postgres::types::ToSql;
use redis::Value;

/// Values that commands take, or nearly.
const WORDS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "k",
    "list",
    "set",
    "hash",
    "zset",
    "stream",
    "GET",
    "COUNT",
    "STREAMS",
    "1-1",
    "WITHSCORES",
    "LIMIT",
    "STORE",
    "*",
    "",
    "x y",
    "ü\u{1f}",
    "NX",
    "EX",
    "return 1",
    "+inf",
];

fn send(client: &mut Client, command: &[&str]) -> Result<Option<String>, postgres::Error> {
    let (name, arguments) = command.split_first().unwrap();
    let parameters: [&(dyn ToSql + Sync); 2] = [name, &arguments];
    let sql = "SELECT redis_command($1, VARIADIC $2)::text";
    client.query_one(sql, &parameters).map(|row| row.get(0))
}

/// The names of all commands, and those of containers with each of their words.
fn commands(client: &mut redis::Connection) -> Vec<Vec<String>> {
    let reply: Vec<Vec<Value>> = redis::cmd("COMMAND").query(client).unwrap();
    let name = |value: &Value| redis::from_redis_value::<String>(value.clone()).unwrap();
    let mut found = Vec::new();
    for command in reply {
        found.push(vec![name(&command[0])]);
        let words: Vec<Vec<Value>> = redis::from_redis_value(command[9].clone()).unwrap();
        found.extend(
            words
                .iter()
                .map(|word| name(&word[0]).split('|').map(str::to_owned).collect::<Vec<String>>()),
        );
    }
    found
}

#[test]
fn no_command_of_a_role_leaves_a_connection_out_of_step() {
    // Danger: a command that nobody thought of mutes the connection, makes it wait or push, and the
    // next statement gets another's answer.
    let scene = Scene::new();
    let role = scene.create_role("app");
    let grant = format!("GRANT EXECUTE ON FUNCTION redis_command(text, text[]) TO {role}");
    scene.connect().batch_execute(&grant).unwrap();
    let mut client = scene.connect_as(&role);
    client.batch_execute("SET pg_cache.timeout_ms = 2000").unwrap();
    for command in [
        &["RPUSH", "list", "1", "a"][..],
        &["SADD", "set", "1"],
        &["HSET", "hash", "k", "1"],
        &["ZADD", "zset", "1", "k"],
        &["XADD", "stream", "1-1", "k", "1"],
    ] {
        send(&mut client, command).unwrap();
    }
    let known = commands(&mut scene.redis.client());
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut answered, mut refused) = (0, 0);
    let rounds = known.iter().cycle().take(known.len() * 8);
    for (round, command) in rounds.enumerate() {
        let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
        let arguments = random.usize(0..6);
        command.extend((0..arguments).map(|_| WORDS[random.usize(0..WORDS.len())]));
        match send(&mut client, &command) {
            Ok(_) => answered += 1,
            Err(error) => {
                refused += 1;
                let state = sqlstate(&error);
                let is_trouble = ["08", "XX", "57"].iter().any(|class| state.starts_with(class));
                assert!(!is_trouble, "{command:?}, seed {seed}: {state} {}", words(&error));
            }
        }
        let number = round.to_string();
        let echo = send(&mut client, &["ECHO", &number]);
        let echo = echo.unwrap_or_else(|e| panic!("{command:?}, seed {seed}: {}", words(&e)));
        assert_eq!(echo, Some(format!("\"{number}\"")), "after {command:?}, seed {seed}");
    }
    assert!(answered > 200 && refused > 200, "{answered} answered, {refused} refused");
}
