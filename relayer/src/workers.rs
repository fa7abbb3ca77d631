//! The tasks that run beside the API until they are stopped.
//!
//! A worker that ends before that is a defect, however it ended: what is accepted would not be sent,
//! or what happened not be booked. The owner of the workers then stops everything.

use std::{collections::HashMap, future};

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// A worker ended although nobody had asked it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "internal error: the {worker} task {how}. No accepted payment is lost; restart to resume from the ledger. If it \
     recurs, report it with the log."
)]
pub struct Ended {
    pub worker: &'static str,
    /// In which way. A panic's message is left out: it may contain anything.
    pub how: &'static str,
}

/// The workers, each with a name.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Workers {
    /// What tells a worker to stop.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts one, which works until `stop` is canceled.
    pub(crate) fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Resolves when one exited on its own.
    pub(crate) async fn ended(&mut self) -> Ended {
        let (id, how) = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "exited"),
            Some(Err(error)) => (error.id(), "panicked"),
            None => future::pending().await,
        };
        Ended { worker: self.names.get(&id).copied().unwrap_or("worker"), how }
    }

    /// Tells them to stop, and waits until they have.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next_with_id().await {
            if let Err(error) = ended {
                let worker = self.names.get(&error.id());
                tracing::error!(worker, "a worker panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers that stop when asked, beside one that does not.
    fn workers(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Workers {
        let mut workers = Workers::default();
        for obedient in ["one", "another"] {
            let stop = workers.stop_token();
            workers.spawn(obedient, async move { stop.cancelled().await });
        }
        workers.spawn(name, work);
        workers
    }

    #[tokio::test]
    async fn a_worker_that_ends_is_named_and_the_others_stop() {
        let mut returned = workers("follower", async {});
        assert_eq!(returned.ended().await, Ended { worker: "follower", how: "exited" });
        returned.stop().await;

        let mut panicked = workers("sender", async {
            tokio::task::yield_now().await;
            panic!("0xdeadbeef")
        });
        let ended = panicked.ended().await;
        assert_eq!(ended, Ended { worker: "sender", how: "panicked" });
        assert!(
            ended.to_string().starts_with("internal error: the sender task panicked")
                && !ended.to_string().contains("deadbeef")
        );
        panicked.stop().await;
    }

    #[tokio::test]
    async fn workers_that_are_told_to_stop_have_not_ended_by_themselves() {
        let mut workers = workers("worker", future::pending());
        let ended = tokio::time::timeout(std::time::Duration::from_millis(50), workers.ended()).await;
        assert!(ended.is_err(), "{ended:?}");
        workers.running.abort_all();
        workers.stop().await;
    }
}
