//! A PostgreSQL installation that belongs to the tests alone.
//!
//! Owns the private prefix: a copy of a PostgreSQL tree with pg_cache installed into the copy, and
//! beside its `bin` a ready data directory (`testbed-template`) that every server starts from. The
//! invariant: the machine's own PostgreSQL is read, never written. Break it and a test run changes
//! what the machine's real databases load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Postgres;
use crate::process::{self, run_well};

/// The data directory with the extension created, beside `bin`.
const TEMPLATE: &str = "testbed-template";

/// A PostgreSQL installation (private prefix with the extension installed).
#[derive(Clone, Debug)]
pub struct Cluster {
    bin_dir: PathBuf,
    major: u32,
}

impl Cluster {
    /// The prefix named by `PG_CACHE_PREFIX` (its `bin` directory).
    pub fn from_env() -> Cluster {
        let Some(bin_dir) = std::env::var_os("PG_CACHE_PREFIX") else {
            panic!(
                "PG_CACHE_PREFIX is not set: run `make test`, or `scripts/with-prefix cargo test …`"
            );
        };
        let cluster = Cluster::at(Path::new(&bin_dir));
        if let Ok(major) = std::env::var("PG_MAJOR") {
            assert_eq!(major, cluster.major.to_string(), "PG_MAJOR and PG_CACHE_PREFIX disagree");
        }
        cluster
    }

    /// The prefix whose programs lie in `bin_dir`.
    pub fn at(bin_dir: &Path) -> Cluster {
        let cluster = Cluster { bin_dir: bin_dir.to_owned(), major: 0 };
        let version = cluster.pg_config("--version");
        Cluster { major: major_of(&version), ..cluster }
    }

    /// 14 to 18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one of its programs: `psql`, `pgbench`, `pg_config`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// The installed library, `pg_cache.so`.
    pub fn library(&self) -> PathBuf {
        Path::new(&self.pg_config("--pkglibdir")).join("pg_cache.so")
    }

    /// The installed script, `pg_cache--0.1.0.sql`.
    pub fn script(&self) -> PathBuf {
        self.extension_dir().join("pg_cache--0.1.0.sql")
    }

    /// A program of PostgreSQL's own test suite: `regress/pg_regress`.
    pub fn test_program(&self, name: &str) -> PathBuf {
        let makefile = PathBuf::from(self.pg_config("--pgxs"));
        let src = makefile.ancestors().nth(2).expect("pgxs.mk lies in pgxs/src/makefiles");
        src.join("test").join(name)
    }

    /// Copies the PostgreSQL that `pg_config` belongs to into `out`, installs the extension from
    /// `root` (control file and scripts) and `library`, and makes the data directory that servers
    /// start from. `out` must not exist.
    pub fn create(pg_config: &Path, out: &Path, root: &Path, library: &Path) -> Cluster {
        // Asked, not derived from its path: Debian's /usr/bin/pg_config is a script for them all.
        let bin_dir = run_well(with_arg(pg_config, "--bindir"), Path::new("/"));
        let original = Cluster::at(Path::new(bin_dir.trim_end()));
        let bin_dir = original.copy_to(out);
        let copy = Cluster::at(&bin_dir);
        for asked in ["--bindir", "--sharedir", "--pkglibdir"] {
            let found = copy.pg_config(asked);
            assert!(Path::new(&found).starts_with(out), "{asked} of the copy is {found}");
        }
        copy.install(root, library);
        Postgres::make_template(&copy);
        copy
    }

    /// The data directory that servers start from; the superuser's own programs made it.
    pub fn template(&self) -> PathBuf {
        self.bin_dir.with_file_name(TEMPLATE)
    }

    /// PostgreSQL finds its share and library directories relative to its programs, so a copy
    /// that keeps their distances works. Debian spreads them over /usr/lib and /usr/share.
    fn copy_to(&self, out: &Path) -> PathBuf {
        let home = self.bin_dir.parent().expect("bin lies in a directory");
        let copies: Vec<(PathBuf, PathBuf)> = if home.starts_with("/usr/lib/postgresql") {
            ["--bindir", "--pkglibdir", "--sharedir"]
                .map(|asked| PathBuf::from(self.pg_config(asked)))
                .map(|from| {
                    let below = from.strip_prefix("/usr").expect("Debian's tree").to_owned();
                    (from, out.join(below))
                })
                .into()
        } else {
            let whole = ["/", "/usr", "/usr/local"].map(Path::new).contains(&home);
            assert!(!whole, "PostgreSQL shares {home:?} with others: name one in its own tree");
            vec![(home.to_owned(), out.to_owned())]
        };
        let mut bin_dir = out.join("bin");
        for (from, to) in copies {
            fs::create_dir_all(&to).unwrap_or_else(|error| panic!("{to:?}: {error}"));
            let mut copy = Command::new("cp");
            copy.args(["-R", "-P", "--preserve=mode,timestamps"]).arg(from.join(".")).arg(&to);
            let done = copy.status().expect("cp starts");
            assert!(done.success(), "{copy:?}: {done}");
            if from == self.bin_dir {
                bin_dir = to;
            }
        }
        bin_dir
    }

    fn install(&self, root: &Path, library: &Path) {
        place(library, &self.library(), 0o755);
        let scripts = fs::read_dir(root.join("sql")).expect("sql/ can be read");
        let scripts = scripts.map(|entry| entry.expect("sql/ can be listed").path());
        for from in scripts.chain([root.join("pg_cache.control")]) {
            let name = from.file_name().expect("a file has a name");
            place(&from, &self.extension_dir().join(name), 0o644);
        }
    }

    /// Where the libraries stand that came with it, if any did.
    pub fn own_libraries(&self) -> PathBuf {
        self.bin_dir.with_file_name("lib")
    }

    fn extension_dir(&self) -> PathBuf {
        Path::new(&self.pg_config("--sharedir")).join("extension")
    }

    fn pg_config(&self, asked: &str) -> String {
        let command = with_arg(&self.bin("pg_config"), asked);
        run_well(command, Path::new("/")).trim_end().to_owned()
    }
}

fn with_arg(program: &Path, arg: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(arg);
    command
}

/// `PostgreSQL 15.20 (Debian …)` or `PostgreSQL 18beta1`.
fn major_of(version: &str) -> u32 {
    let number = version.trim_start_matches("PostgreSQL ");
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("pg_config --version says {version:?}"))
}

fn place(from: &Path, to: &Path, mode: u32) {
    // A copy over a library that some server has mapped would crash it: a new file instead.
    let _ = fs::remove_file(to);
    fs::copy(from, to).unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).expect("a file of ours");
}

/// Copies a data directory, keeping owner and modes.
pub(crate) fn copy_data(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg("--reflink=auto").arg(from).arg(to);
    let done = copy.status().expect("cp starts");
    assert!(done.success(), "{copy:?}: {done}");
    process::give_to_service(to);
}

#[cfg(test)]
mod tests {
    use super::major_of;

    #[test]
    fn every_way_to_write_a_version_yields_its_major() {
        // A wrong major builds against one PostgreSQL and tests another.
        assert_eq!(major_of("PostgreSQL 15.20 (Debian 15.20-0+deb12u1)"), 15);
        assert_eq!(major_of("PostgreSQL 18beta1"), 18);
        assert_eq!(major_of("PostgreSQL 14.23"), 14);
    }
}
