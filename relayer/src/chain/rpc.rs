//! The nodes: one preferred, others for when it fails, lags or lies.
//!
//! A question goes to the first node that is well. One that gives no answer is asked last until it
//! answers again; one on another chain, never; one that contradicts itself or the others is set
//! aside for a while. Signed bytes go to all of them. Of a node's URL nothing is ever shown but host
//! and port: keys live in the rest.

mod error;
mod link;
mod node;
#[cfg(test)]
pub(crate) mod scripted;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy::eips::BlockId;
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
pub use error::RpcError;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
pub use node::{Call, FullBlock, Node, Receipt};
use standing::{Seen, Standings};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::classify::Sent;
use crate::{health::Health, ledger::blocks::Block};

/// How long the others may still take when one node has answered what all are asked.
const GRACE: Duration = Duration::from_secs(2);

/// The nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rpc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<Node>,
    standings: Mutex<Standings>,
    health: Health,
    /// Told when a node tells of a new block.
    wake: Notify,
}

/// A node that a step reads from.
#[derive(Clone, Debug)]
pub struct Chosen {
    place: usize,
    /// The node.
    pub node: Node,
}

impl Rpc {
    /// The nodes at these addresses, the preferred one first, which must be on this chain.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(urls: &[Url], chain_id: u64, health: Health) -> Result<Self, reqwest::Error> {
        let nodes = urls.iter().cloned().map(Node::new).collect::<Result<Vec<_>, _>>()?;
        let standings = Mutex::new(Standings::new(nodes.len(), chain_id));
        Ok(Self { shared: Arc::new(Shared { nodes, standings, health, wake: Notify::new() }) })
    }

    /// Asks every node for its chain. Returns the first that is on another one, with that.
    ///
    /// # Errors
    /// [`RpcError`] if none of them answers.
    pub async fn introduce(&self) -> Result<Option<(String, u64)>, RpcError> {
        let answers = join_all(self.shared.nodes.iter().map(Node::chain_id)).await;
        let (mut answered, mut elsewhere, mut last) = (false, None, None);
        for (place, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(found) => {
                    answered = true;
                    if !self.standings().on_chain(place, found) && elsewhere.is_none() {
                        elsewhere = self.shared.nodes.get(place).map(|node| (node.name().to_owned(), found));
                    }
                }
                Err(error) => last = Some(self.failed(place, error)),
            }
        }
        match last {
            Some(error) if !answered => Err(error),
            _ => Ok(elsewhere),
        }
    }

    /// Looks at the heads of all nodes, until `stop`, so that one that lags is known before it is
    /// asked, and one that is back is asked again; and at their chains, since a balancer can put
    /// another node behind an address. One node alone has nobody to be compared with.
    pub async fn watch(self, every: Duration, stop: CancellationToken) {
        if self.shared.nodes.len() < 2 {
            return stop.cancelled().await;
        }
        loop {
            let looks = (0..self.shared.nodes.len()).map(|place| self.look_at(place));
            tokio::select! {
                _ = join_all(looks) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Listens to the nodes that tell of new blocks by themselves, until `stop`.
    pub async fn listen(self, stop: CancellationToken) {
        join_all(self.shared.nodes.iter().map(|node| node.listen(&self.shared.wake, &stop))).await;
        stop.cancelled().await;
    }

    /// Resolves when a node tells of a new block. Which one it is, and whether it is one, is for the
    /// follower to read.
    pub async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// Whether the node that is read from now tells of new blocks by itself.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.order().first().and_then(|place| self.node(*place)).is_some_and(|node| node.is_heard())
    }

    async fn look_at(&self, place: usize) {
        if let Ok(node) = self.checked(place).await {
            match node.latest().await {
                Ok(latest) => self.saw(&Chosen { place, node }, latest.block),
                Err(error) => _ = self.failed(place, error),
            }
        }
    }

    /// A node to read from. All that belongs together is read from one.
    ///
    /// # Errors
    /// [`RpcError`] if none can be used.
    pub async fn choose(&self) -> Result<Chosen, RpcError> {
        let mut last = None;
        for place in self.order() {
            match self.connected(place).await {
                Ok(node) => return Ok(Chosen { place, node }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    /// The other nodes with nothing wrong.
    #[must_use]
    pub fn others(&self, than: &Chosen) -> Vec<Node> {
        let healthy = self.standings().healthy();
        healthy.into_iter().filter(|place| *place != than.place).filter_map(|place| self.node(place)).collect()
    }

    /// A chosen node shows this head.
    pub fn saw(&self, chosen: &Chosen, head: Block) {
        let seen = Seen { number: head.number, time: head.time };
        self.standings().saw(chosen.place, seen, Instant::now());
        self.report();
    }

    /// A chosen node did not do what was needed of it. Returns the error to show.
    pub fn disappoints(&self, chosen: &Chosen, error: RpcError) -> RpcError {
        self.failed(chosen.place, error)
    }

    /// A chosen node contradicts itself or the others: it is not asked for a while.
    pub fn set_aside(&self, chosen: &Chosen, why: String) {
        self.standings().set_aside(chosen.place, why, Instant::now());
        self.report();
    }

    /// How many nodes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.nodes.len()
    }

    /// The receipt of a transaction; `None` while no node knows a block that holds it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        let receipts = self.all(|node| async move { node.receipt(hash).await }).await?;
        Ok(receipts.into_iter().flatten().next())
    }

    /// The next nonce of an account by mined transactions: the highest that a node knows of.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn nonce(&self, account: Address) -> Result<u64, RpcError> {
        let nonces = self.all(|node| async move { node.nonce_at(account, BlockId::latest()).await }).await?;
        Ok(nonces.into_iter().max().unwrap_or_default())
    }

    /// The same at the end of the block with this hash.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn nonce_at(&self, account: Address, block: B256) -> Result<u64, RpcError> {
        self.ask(|node| async move { node.nonce_at(account, BlockId::hash(block)).await }).await
    }

    /// An account's ETH, in wei.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn balance(&self, account: Address) -> Result<u128, RpcError> {
        self.ask(|node| async move { node.balance(account).await }).await
    }

    /// The code of a contract; empty if there is none.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn code(&self, account: Address) -> Result<Bytes, RpcError> {
        self.ask(|node| async move { node.code(account).await }).await
    }

    /// The height of the last block.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn height(&self) -> Result<u64, RpcError> {
        Ok(self.ask(|node| async move { node.latest().await }).await?.block.number)
    }

    /// The block at this height; `None` if the node does not know it.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn block_at(&self, height: u64) -> Result<Option<Block>, RpcError> {
        Ok(self.ask(|node| async move { node.block(height).await }).await?.map(|block| block.block))
    }

    /// The code that a contract had at this height; empty if there was none.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn code_at(&self, account: Address, height: u64) -> Result<Bytes, RpcError> {
        self.ask(|node| async move { node.code_at(account, height).await }).await
    }

    /// Who sent a transaction that a block holds.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn sender_of(&self, hash: B256) -> Result<Option<Address>, RpcError> {
        self.ask(|node| async move { node.sender_of(hash).await }).await
    }

    /// The tip that the node suggests, in wei per gas.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn tip(&self) -> Result<u64, RpcError> {
        self.ask(|node| async move { node.tip().await }).await
    }

    /// Calls a contract at a block, without a transaction.
    ///
    /// # Errors
    /// [`RpcError`]; of a call that reverts with what it returned.
    pub async fn call<C: SolCall>(&self, call: Call, at: impl Into<BlockId>) -> Result<C::Return, RpcError> {
        let (at, call) = (at.into(), &call);
        self.ask(|node| async move { node.call::<C>(call, at).await }).await
    }

    /// Sends signed bytes to every node that is on the right chain, and says what became of them: the
    /// best that any of them says.
    pub async fn send(&self, raw: &[u8]) -> (Sent, Option<String>) {
        let answers = self
            .everywhere(self.order(), |place| async move {
                match self.connected(place).await {
                    Ok(node) => node.send(raw).await,
                    Err(error) => (Sent::Unknown, Some(error.to_string())),
                }
            })
            .await;
        let best = answers.into_iter().min_by_key(|(_, (sent, _))| match sent {
            Sent::Accepted => 0,
            Sent::NonceUsed => 1,
            Sent::Underpriced => 2,
            Sent::NoFunds => 3,
            Sent::Unknown => 4,
            Sent::Rejected => 5,
        });
        best.map_or_else(|| (Sent::Unknown, Some(self.nobody().to_string())), |(_, outcome)| outcome)
    }

    /// Asks the first node that answers.
    async fn ask<T, F>(&self, question: impl Fn(Node) -> F) -> Result<T, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let mut last = None;
        for place in self.order() {
            let node = match self.connected(place).await {
                Ok(node) => node,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match question(node).await {
                // It lags or has forgotten: no fault, but another may know.
                Err(error @ RpcError::NoSuchBlock { .. }) => last = Some(error),
                Err(error @ RpcError::NoAnswer { .. }) => last = Some(self.failed(place, error)),
                answer => {
                    self.standings().answered(place, Instant::now());
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    /// Asks all nodes that are well, or else the first that answers.
    async fn all<T, F>(&self, question: impl Fn(Node) -> F) -> Result<Vec<T>, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let (healthy, ask) = (self.standings().healthy(), &question);
        let answers = self
            .everywhere(healthy, |place| async move {
                match self.connected(place).await {
                    Ok(node) => Some(ask(node).await),
                    Err(_) => None,
                }
            })
            .await;
        let mut known = Vec::with_capacity(answers.len());
        for (place, answer) in answers {
            match answer {
                Some(Ok(answer)) => known.push(answer),
                Some(Err(error @ RpcError::NoAnswer { .. })) => _ = self.failed(place, error),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        match known.is_empty() {
            true => Ok(vec![self.ask(question).await?]),
            false => Ok(known),
        }
    }

    /// Does it with all these nodes at once, and waits for those that are slower than the first to
    /// answer only a little.
    async fn everywhere<T, F>(&self, places: Vec<usize>, work: impl Fn(usize) -> F) -> Vec<(usize, T)>
    where
        F: Future<Output = T>,
    {
        let work = &work;
        let mut running: FuturesUnordered<_> =
            places.into_iter().map(|place| async move { (place, work(place).await) }).collect();
        let mut answers = Vec::with_capacity(running.len());
        answers.extend(running.next().await);
        let rest = async {
            while let Some(answer) = running.next().await {
                answers.push(answer);
            }
        };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            tracing::debug!("a node is slow");
        }
        answers
    }

    /// The node there, known to be on the right chain since it last failed.
    async fn connected(&self, place: usize) -> Result<Node, RpcError> {
        match self.node(place) {
            Some(node) if self.standings().is_checked(place) => Ok(node),
            _ => self.checked(place).await,
        }
    }

    /// The node there, after a look at its chain.
    async fn checked(&self, place: usize) -> Result<Node, RpcError> {
        let node = self.node(place).ok_or_else(|| self.nobody())?;
        match node.chain_id().await {
            Ok(found) => {
                let right = self.standings().on_chain(place, found);
                self.report();
                right.then_some(node).ok_or_else(|| self.nobody())
            }
            Err(error) => Err(self.failed(place, error)),
        }
    }

    fn failed(&self, place: usize, error: RpcError) -> RpcError {
        let error = match self.node(place) {
            Some(node) => error.map(|text| node.without_secrets(&text)),
            None => error,
        };
        self.standings().failed(place, error.to_string(), Instant::now());
        self.report();
        error
    }

    fn nobody(&self) -> RpcError {
        RpcError::NoAnswer { method: "anything", reason: self.complaints().join("; ") }
    }

    /// Says which nodes are not used, and why.
    fn report(&self) {
        let health = &self.shared.health;
        if self.standings().all_elsewhere() {
            health.halt("nodes", format!("{}: check --rpc-url and --chain-id", self.complaints().join("; ")));
        } else if self.count() > 1 {
            match self.complaints().as_slice() {
                [] => health.clear("nodes"),
                complaints => health.warn("nodes", complaints.join("; ")),
            }
        } else {
            // Of a single one the follower complains, when it has tried more than once.
            health.clear("nodes");
        }
    }

    fn complaints(&self) -> Vec<String> {
        let complaints: Vec<_> = self.standings().complaints().collect();
        let name = |place| self.shared.nodes.get(place).map_or("a node", Node::name);
        complaints.into_iter().map(|(place, why)| format!("{} is not used: {why}", name(place))).collect()
    }

    fn order(&self) -> Vec<usize> {
        self.standings().order(Instant::now())
    }

    fn node(&self, place: usize) -> Option<Node> {
        self.shared.nodes.get(place).cloned()
    }

    fn standings(&self) -> MutexGuard<'_, Standings> {
        self.shared.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
