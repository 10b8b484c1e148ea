//! What a server says of itself: which one it is, and whether it is one that can be used.
//!
//! Invariant: who answers is known by what it said last. A demoted primary keeps its connections
//! and its run_id; only its role and its replication id tell. Its numbered databases are as many
//! servers: what is done in one of them is unknown to whoever reads another.

use pg_cache_core::reason::Reason;

use super::failure::Failure;

/// Scripts with flags, and BUMP's `allow-oom`, need these.
const REDIS_AT_LEAST: (u32, u32) = (7, 0);
const VALKEY_AT_LEAST: (u32, u32) = (7, 2);

/// What the server said of itself when we connected, and what we chose there.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub run_id: String,
    /// The number of the database that the connection uses.
    pub db: String,
    pub name: &'static str,
    pub version: String,
    pub role: String,
    /// Changes with every failover, where `run_id` does not.
    pub replication_id: String,
    /// The proof that the two above were read from.
    proof: String,
}

impl Server {
    /// What a registration knows a server by.
    pub fn identity(&self) -> String {
        format!("{}:{}/{}", self.run_id, self.replication_id, self.db)
    }

    /// Whether that is this one. Asked with every hit: puts nothing together.
    pub fn is_known_by(&self, identity: &str) -> bool {
        let parts = [&self.run_id, ":", &self.replication_id, "/", &self.db];
        parts.iter().try_fold(identity, |rest, part| rest.strip_prefix(part)) == Some("")
    }

    pub fn is_primary(&self) -> bool {
        self.role == "master"
    }

    /// Asked with every request, and the same nearly every time.
    pub fn take_proof(&mut self, replication: &str) {
        if self.proof == replication {
            return;
        }
        replication.clone_into(&mut self.proof);
        for (known, name) in [(&mut self.role, "role"), (&mut self.replication_id, "master_replid")]
        {
            let told = info(replication, name).unwrap_or_default();
            if known != told {
                *known = told.to_owned();
            }
        }
    }

    /// Of INFO server and INFO replication.
    pub fn read(server: &str, replication: &str, db: i64) -> Self {
        let valkey = info(server, "valkey_version");
        let (name, version) = match valkey {
            Some(version) => ("valkey", version),
            None => ("redis", info(server, "redis_version").unwrap_or_default()),
        };
        Self {
            run_id: info(server, "run_id").unwrap_or_default().to_owned(),
            db: db.to_string(),
            name,
            version: version.to_owned(),
            role: info(replication, "role").unwrap_or_default().to_owned(),
            replication_id: info(replication, "master_replid").unwrap_or_default().to_owned(),
            proof: replication.to_owned(),
        }
    }

    pub fn check_version(&self) -> Result<(), Failure> {
        let mut numbers = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let wanted = if self.name == "valkey" { VALKEY_AT_LEAST } else { REDIS_AT_LEAST };
        if found >= wanted {
            return Ok(());
        }
        let (name, version) = (self.name, &self.version);
        Err(Failure::new(Reason::Version, format!("the server is {name} {version}")))
    }
}

/// The value of `name:value` in an INFO reply.
pub fn info<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
