//! A library of another extension's, whose callback runs SQL after ours has done its part before
//! the commit: written in C, compiled for the server under test.
//!
//! The invariant: it is loaded before pg_cache in its session, since callbacks that were registered
//! first are called last. Break it and the SQL runs before our part, which tests nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

use pg_cache_testbed::Cluster;
use postgres::Client;

/// Runs the setting `late.sql` in PRE_COMMIT and PRE_PREPARE, once.
const SOURCE: &str = r#"
#include "postgres.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
PG_MODULE_MAGIC;
static void
late(XactEvent event, void *arg)
{
    const char *sql = GetConfigOption("late.sql", true, false);

    if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
        return;
    if (sql == NULL || sql[0] == '\0')
        return;
    PushActiveSnapshot(GetTransactionSnapshot());
    SPI_connect();
    SPI_execute(sql, false, 0);
    SPI_finish();
    PopActiveSnapshot();
}
void _PG_init(void);
void
_PG_init(void)
{
    RegisterXactCallback(late, NULL);
}
"#;

/// Loads it. The session must not have used pg_cache yet.
pub fn load(client: &mut Client) {
    compile();
    client.batch_execute("LOAD 'late'").unwrap();
}

static LIBRARY: Once = Once::new();

/// Has it there for a server that loads it before pg_cache.
pub fn compile() {
    LIBRARY.call_once(compile_once);
}

/// Beside pg_cache, in the installation that belongs to the tests.
fn compile_once() {
    let cluster = Cluster::from_env();
    let asked = Command::new(cluster.bin("pg_config")).arg("--includedir-server").output().unwrap();
    let own = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim());
    let debian = format!("/usr/include/postgresql/{}/server", cluster.major());
    // Debian's headers are not part of what was copied.
    let headers = if own.join("postgres.h").exists() { own } else { debian.into() };
    let library = cluster.library().with_file_name("late.so");
    let source = library.with_extension("c");
    fs::write(&source, SOURCE).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg("-I").arg(headers).arg(&source);
    assert!(compiler.status().unwrap().success(), "{compiler:?}");
}
