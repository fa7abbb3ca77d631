//! The nodes: one preferred, others for when it fails, lags or lies.
//!
//! A request goes to the first node that is well. One that gives no answer is asked last until it
//! answers again; one on another chain, never; one that contradicts itself or the others is set
//! aside for a while. Signed bytes go to all of them. Of a node's URL nothing is ever shown but host
//! and port: keys live in the rest.

mod error;
mod link;
mod node;
mod ranking;
#[cfg(test)]
pub(crate) mod scripted;
pub mod send_outcome;
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
pub use node::{EthCall, FullBlock, FullReceipt, Node};
use ranking::{NodeRanking, Seen};
pub use send_outcome::SendOutcome;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    alarms::Alarms,
    ledger::blocks::{Block, Receipt},
};

/// How long the others may still take when one node has answered what all are asked.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);

/// The nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rpc {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<Node>,
    ranking: Mutex<NodeRanking>,
    alarms: Alarms,
    /// Told when a node tells of a new block.
    new_heads: Notify,
    /// When a node last took a transaction.
    last_sent: Mutex<Option<Instant>>,
}

/// A node that a step reads from.
#[derive(Clone, Debug)]
pub struct Chosen {
    index: usize,
    pub node: Node,
}

impl Rpc {
    /// The nodes at these addresses, the preferred one first, which must be on this chain.
    pub fn new(urls: &[Url], chain_id: u64, alarms: Alarms) -> Result<Self, reqwest::Error> {
        let nodes = urls.iter().cloned().map(Node::new).collect::<Result<Vec<_>, _>>()?;
        let ranking = Mutex::new(NodeRanking::new(nodes.len(), chain_id));
        Ok(Self {
            shared: Arc::new(Shared { nodes, ranking, alarms, new_heads: Notify::new(), last_sent: Mutex::default() }),
        })
    }

    /// Asks every node for its chain. Returns the first that is on another one, with that.
    pub async fn verify_chain_ids(&self) -> Result<Option<(String, u64)>, RpcError> {
        let answers = join_all(self.shared.nodes.iter().map(Node::chain_id)).await;
        let (mut answered, mut elsewhere, mut last) = (false, None, None);
        for (index, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(found) => {
                    answered = true;
                    if !self.ranking().on_chain(index, found) && elsewhere.is_none() {
                        elsewhere = self.shared.nodes.get(index).map(|node| (node.name().to_owned(), found));
                    }
                }
                Err(error) => last = Some(self.failed(index, error)),
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
            let looks = (0..self.shared.nodes.len()).map(|index| self.check_head(index));
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
        join_all(self.shared.nodes.iter().map(|node| node.listen(&self.shared.new_heads, &stop))).await;
        stop.cancelled().await;
    }

    /// Resolves when a node tells of a new block. Which one it is, and whether it is one, is for the
    /// follower to read.
    pub async fn new_head(&self) {
        self.shared.new_heads.notified().await;
    }

    /// How long ago a node took a transaction, if any did: there may be a block of it.
    pub fn since_sent(&self) -> Option<Duration> {
        self.last_sent().map(|sent| sent.elapsed())
    }

    fn last_sent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared.last_sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node in use announces new blocks.
    pub fn is_subscribed(&self) -> bool {
        self.order().first().and_then(|index| self.node(*index)).is_some_and(|node| node.is_subscribed())
    }

    async fn check_head(&self, index: usize) {
        if let Ok(node) = self.checked(index).await {
            match node.latest().await {
                Ok(latest) => self.record_head(&Chosen { index, node }, latest.block),
                Err(error) => _ = self.failed(index, error),
            }
        }
    }

    /// A node to read from. All that belongs together is read from one.
    pub async fn choose(&self) -> Result<Chosen, RpcError> {
        let mut last = None;
        for index in self.order() {
            match self.connected(index).await {
                Ok(node) => return Ok(Chosen { index, node }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.no_healthy_node()))
    }

    /// The other nodes with nothing wrong.
    pub fn other_healthy(&self, than: &Chosen) -> Vec<Node> {
        let healthy = self.ranking().healthy();
        healthy.into_iter().filter(|index| *index != than.index).filter_map(|index| self.node(index)).collect()
    }

    /// A chosen node shows this head.
    pub fn record_head(&self, chosen: &Chosen, head: Block) {
        let seen = Seen { number: head.number, time: head.time };
        self.ranking().record_head(chosen.index, seen, Instant::now());
        self.report();
    }

    /// A chosen node did not do what was needed of it. Returns the error to show.
    pub fn record_failure(&self, chosen: &Chosen, error: RpcError) -> RpcError {
        self.failed(chosen.index, error)
    }

    /// A chosen node contradicts itself or the others: it is not asked for a while.
    pub fn quarantine(&self, chosen: &Chosen, why: String) {
        self.ranking().quarantine(chosen.index, why, Instant::now());
        self.report();
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.shared.nodes.len()
    }

    /// The receipt of a transaction; `None` while no node knows a block that holds it.
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        let receipts = self.all(|node| async move { node.receipt(hash).await }).await?;
        Ok(receipts.into_iter().flatten().next())
    }

    /// The next nonce of an account by mined transactions: the highest that a node knows of.
    pub async fn nonce(&self, account: Address) -> Result<u64, RpcError> {
        let nonces = self.all(|node| async move { node.nonce_at(account, BlockId::latest()).await }).await?;
        Ok(nonces.into_iter().max().unwrap_or_default())
    }

    /// The same at the end of the block with this hash.
    pub async fn nonce_at(&self, account: Address, block: B256) -> Result<u64, RpcError> {
        self.ask(|node| async move { node.nonce_at(account, BlockId::hash(block)).await }).await
    }

    /// An account's ETH, in wei.
    pub async fn balance(&self, account: Address) -> Result<u128, RpcError> {
        self.ask(|node| async move { node.balance(account).await }).await
    }

    /// The code of a contract; empty if there is none.
    pub async fn code(&self, account: Address) -> Result<Bytes, RpcError> {
        self.ask(|node| async move { node.code(account).await }).await
    }

    /// The height of the last block.
    pub async fn height(&self) -> Result<u64, RpcError> {
        Ok(self.ask(|node| async move { node.latest().await }).await?.block.number)
    }

    /// The block at this height; `None` if the node does not know it.
    pub async fn block_at(&self, height: u64) -> Result<Option<Block>, RpcError> {
        Ok(self.ask(|node| async move { node.block(height).await }).await?.map(|block| block.block))
    }

    /// The code that a contract had at this height; empty if there was none.
    pub async fn code_at(&self, account: Address, height: u64) -> Result<Bytes, RpcError> {
        self.ask(|node| async move { node.code_at(account, height).await }).await
    }

    /// Who sent a transaction that a block holds.
    pub async fn sender_of(&self, hash: B256) -> Result<Option<Address>, RpcError> {
        self.ask(|node| async move { node.sender_of(hash).await }).await
    }

    /// The tip that the node suggests on top of `base_fee`, in wei per gas.
    pub async fn tip(&self, base_fee: u64) -> Result<u64, RpcError> {
        self.ask(|node| async move { node.tip(base_fee).await }).await
    }

    /// Calls a contract at a block, without a transaction.
    ///
    /// # Errors
    /// [`RpcError`]; of a call that reverts with what it returned.
    pub async fn call<C: SolCall>(&self, call: EthCall, at: impl Into<BlockId>) -> Result<C::Return, RpcError> {
        let (at, call) = (at.into(), &call);
        self.ask(|node| async move { node.call::<C>(call, at).await }).await
    }

    /// Sends signed bytes to every node that is on the right chain, and says what became of them: the
    /// best that any of them says.
    pub async fn send(&self, raw: &[u8]) -> (SendOutcome, Option<String>) {
        let answers = self
            .broadcast(self.order(), |index| async move {
                match self.connected(index).await {
                    Ok(node) => node.send(raw).await,
                    Err(error) => (SendOutcome::Unknown, Some(error.to_string())),
                }
            })
            .await;
        let best = answers.into_iter().min_by_key(|(_, (sent, _))| match sent {
            SendOutcome::Accepted => 0,
            SendOutcome::NonceUsed => 1,
            SendOutcome::Underpriced => 2,
            SendOutcome::NoFunds => 3,
            SendOutcome::Unknown => 4,
            SendOutcome::TooLarge => 5,
            SendOutcome::Rejected => 6,
        });
        let (_, (outcome, message)) =
            best.unwrap_or_else(|| (0, (SendOutcome::Unknown, Some(self.no_healthy_node().to_string()))));
        if outcome == SendOutcome::Accepted {
            *self.last_sent() = Some(Instant::now());
            self.shared.new_heads.notify_one();
        }
        (outcome, message)
    }

    /// Asks the first node that answers.
    async fn ask<T, F>(&self, request: impl Fn(Node) -> F) -> Result<T, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let mut last = None;
        for index in self.order() {
            let node = match self.connected(index).await {
                Ok(node) => node,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match request(node).await {
                // It lags or has forgotten: no fault, but another may know.
                Err(error @ RpcError::NoSuchBlock { .. }) => last = Some(error),
                Err(error @ RpcError::NoAnswer { .. }) => last = Some(self.failed(index, error)),
                answer => {
                    self.ranking().answered(index, Instant::now());
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| self.no_healthy_node()))
    }

    /// Asks all nodes that are well, or else the first that answers.
    async fn all<T, F>(&self, request: impl Fn(Node) -> F) -> Result<Vec<T>, RpcError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let (healthy, ask) = (self.ranking().healthy(), &request);
        let answers = self
            .broadcast(healthy, |index| async move {
                match self.connected(index).await {
                    Ok(node) => Some(ask(node).await),
                    Err(_) => None,
                }
            })
            .await;
        let mut known = Vec::with_capacity(answers.len());
        for (index, answer) in answers {
            match answer {
                Some(Ok(answer)) => known.push(answer),
                Some(Err(error @ RpcError::NoAnswer { .. })) => _ = self.failed(index, error),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        match known.is_empty() {
            true => Ok(vec![self.ask(request).await?]),
            false => Ok(known),
        }
    }

    /// Does it with all these nodes at once, and waits for those that are slower than the first to
    /// answer only a little.
    async fn broadcast<T, F>(&self, indices: Vec<usize>, work: impl Fn(usize) -> F) -> Vec<(usize, T)>
    where
        F: Future<Output = T>,
    {
        let work = &work;
        let mut running: FuturesUnordered<_> =
            indices.into_iter().map(|index| async move { (index, work(index).await) }).collect();
        let mut answers = Vec::with_capacity(running.len());
        answers.extend(running.next().await);
        let rest = async {
            while let Some(answer) = running.next().await {
                answers.push(answer);
            }
        };
        if tokio::time::timeout(STRAGGLER_TIMEOUT, rest).await.is_err() {
            tracing::debug!("a node is slow");
        }
        answers
    }

    /// The node there, known to be on the right chain since it last failed.
    async fn connected(&self, index: usize) -> Result<Node, RpcError> {
        match self.node(index) {
            Some(node) if self.ranking().is_checked(index) => Ok(node),
            _ => self.checked(index).await,
        }
    }

    /// The node there, after a look at its chain.
    async fn checked(&self, index: usize) -> Result<Node, RpcError> {
        let node = self.node(index).ok_or_else(|| self.no_healthy_node())?;
        match node.chain_id().await {
            Ok(found) => {
                let right = self.ranking().on_chain(index, found);
                self.report();
                right.then_some(node).ok_or_else(|| self.no_healthy_node())
            }
            Err(error) => Err(self.failed(index, error)),
        }
    }

    fn failed(&self, index: usize, error: RpcError) -> RpcError {
        let error = match self.node(index) {
            Some(node) => error.map(|text| node.without_secrets(&text)),
            None => error,
        };
        self.ranking().failed(index, error.to_string(), Instant::now());
        self.report();
        error
    }

    fn no_healthy_node(&self) -> RpcError {
        RpcError::NoAnswer { method: "anything", reason: self.unhealthy_report().join("; ") }
    }

    /// Says which nodes are not used, and why.
    fn report(&self) {
        let alarms = &self.shared.alarms;
        if self.ranking().all_on_other_chain() {
            alarms.halt("nodes", format!("{}: check --rpc-url and --chain-id", self.unhealthy_report().join("; ")));
        } else if self.count() > 1 {
            match self.unhealthy_report().as_slice() {
                [] => alarms.clear("nodes"),
                unhealthy_report => alarms.warn("nodes", unhealthy_report.join("; ")),
            }
        } else {
            // Of a single one the follower complains, when it has tried more than once.
            alarms.clear("nodes");
        }
    }

    fn unhealthy_report(&self) -> Vec<String> {
        let unhealthy_report: Vec<_> = self.ranking().unhealthy_report().collect();
        let name = |index| self.shared.nodes.get(index).map_or("a node", Node::name);
        unhealthy_report.into_iter().map(|(index, why)| format!("{} is not used: {why}", name(index))).collect()
    }

    fn order(&self) -> Vec<usize> {
        self.ranking().order(Instant::now())
    }

    fn node(&self, index: usize) -> Option<Node> {
        self.shared.nodes.get(index).cloned()
    }

    fn ranking(&self) -> MutexGuard<'_, NodeRanking> {
        self.shared.ranking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
