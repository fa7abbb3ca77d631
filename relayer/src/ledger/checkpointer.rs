//! Moves what was committed out of the write-ahead log into the file, on a thread of its own: the writer, whose callers wait,
//! copies only the last few pages itself, between two commits, so that its next one can begin the log anew.

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rusqlite::Connection;

use super::LedgerError;

/// So many pages in the log, of 4 KiB, are worth a checkpoint: a page that many commits have changed is copied once.
const PAGES: u32 = 4_000;
/// So few are left to the writer: they take it less than a short commit does.
const LEFT: u32 = 64;
/// How often the thread tries to leave so few, while the writer adds to them.
const ROUNDS: usize = 8;

/// What writer and thread tell each other.
#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    grown: Condvar,
    /// Nearly all is in the file: the writer copies the rest.
    nearly: AtomicBool,
}

#[derive(Debug, Default)]
struct Log {
    /// How many pages the log had after the last commit.
    pages: u32,
    closed: bool,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the log is long; `false` when it is closed.
    fn wait(&self) -> bool {
        let mut log = self.log();
        while log.pages < PAGES && !log.closed {
            log = self.grown.wait(log).unwrap_or_else(PoisonError::into_inner);
        }
        // What the thread can't move, because somebody reads, is tried again after the next commit.
        log.pages = 0;
        !log.closed
    }
}

/// The writer's side. The thread ends with it.
#[derive(Debug)]
pub(super) struct Checkpointer(Arc<Shared>);

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.0.log().closed = true;
        self.0.grown.notify_one();
    }
}

impl Checkpointer {
    /// Has the log of the writer's connection moved by a thread, instead of by the commits that make it long.
    pub(super) fn start(connection: &mut Connection, path: &Path) -> Result<Self, LedgerError> {
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        connection.wal_hook(Some(move |_: &'_ mut rusqlite::hooks::Wal, pages| {
            let mut log = told.log();
            log.pages = u32::try_from(pages).unwrap_or_default();
            if log.pages >= PAGES {
                told.grown.notify_one();
            }
            Ok(())
        }))?;
        let (file, thread) = (Connection::open(path)?, shared.clone());
        thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || run(&file, &thread))
            .map_err(|source| LedgerError::File { path: "the checkpointer's thread".into(), source })?;
        Ok(Self(shared))
    }

    /// Between two commits: copies the last pages, if nearly all are copied.
    pub(super) fn finish(&self, connection: &Connection) {
        if self.0.nearly.swap(false, Ordering::AcqRel) {
            report(passive(connection).map(drop));
        }
    }
}

fn run(file: &Connection, shared: &Shared) {
    while shared.wait() {
        for _ in 0..ROUNDS {
            match passive(file) {
                Ok(left) if left > LEFT => {}
                Ok(_) => {
                    shared.nearly.store(true, Ordering::Release);
                    break;
                }
                Err(error) => {
                    report(Err(error));
                    break;
                }
            }
        }
    }
}

/// Copies what nobody reads any more; how many pages are left.
fn passive(connection: &Connection) -> Result<u32, rusqlite::Error> {
    let pages = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (all, moved) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], pages)?;
    Ok(u32::try_from(all.saturating_sub(moved)).unwrap_or_default())
}

/// Nothing is lost by a checkpoint that fails: the log only grows.
fn report(result: Result<(), rusqlite::Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the ledger's write-ahead log could not be moved into its file; it grows until that works");
    }
}
