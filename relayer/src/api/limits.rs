//! How much is taken: calls per second of one peer, of all, and of one agent; calls at a time.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

use alloy_primitives::Address;
use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::request::Parts,
    middleware::Next,
    response::Response,
};
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use stipend_core::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Api, problem::Refusal};

/// A rate: calls per second, and the burst allowed after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls per second.
    pub per_second: NonZeroU32,
    /// Calls at once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate; what is given as zero counts as one.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        Self { per_second: some(per_second), burst: some(burst) }
    }

    const fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

/// How much the API takes at most. What is above is refused at once, with the time to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Calls of one peer: an IPv4 address, or a /64 of IPv6. Before any signature is checked.
    pub per_peer: Rate,
    /// Calls of all peers together. Before any signature is checked.
    pub total: Rate,
    /// Signed requests of one key. After its signature is checked, so that nobody can use up
    /// somebody else's.
    pub per_agent: Rate,
    /// Connections at a time.
    pub connections: usize,
    /// Calls at a time that are answered as soon as possible.
    pub working: usize,
    /// Calls at a time that wait for something to happen: `?wait=` and event streams.
    pub waiting: usize,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            per_peer: Rate::new(500, 1_000),
            total: Rate::new(5_000, 10_000),
            per_agent: Rate::new(100, 200),
            connections: 10_000,
            working: 1_024,
            waiting: 4_096,
        }
    }
}

/// What enforces [`ApiLimits`].
pub(super) struct RateLimiters {
    peers: DefaultKeyedRateLimiter<IpAddr>,
    total: DefaultDirectRateLimiter,
    agents: DefaultKeyedRateLimiter<Address>,
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A permit among the calls that wait, for as long as the answer's stream lives.
#[derive(Clone)]
pub(super) struct ConcurrencyPermit {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl RateLimiters {
    pub(super) fn new(limits: &ApiLimits) -> Self {
        Self {
            peers: RateLimiter::keyed(limits.per_peer.quota()),
            total: RateLimiter::direct(limits.total.quota()),
            agents: RateLimiter::keyed(limits.per_agent.quota()),
            working: Arc::new(Semaphore::new(limits.working)),
            waiting: Arc::new(Semaphore::new(limits.waiting)),
        }
    }

    /// Counts a call of `agent`, whose signature is checked.
    pub(super) fn agent(&self, agent: Address) -> Result<(), Refusal> {
        self.agents.check_key(&agent).map_err(|until| limited("this key sends", &until))
    }

    /// Forgets peers and agents that have not called lately; without it, the memory of them would
    /// grow without bound.
    pub(super) fn forget_idle(&self) {
        self.peers.retain_recent();
        self.peers.shrink_to_fit();
        self.agents.retain_recent();
        self.agents.shrink_to_fit();
    }

    fn peer(&self, peer: IpAddr) -> Result<(), Refusal> {
        // The peer first: one that floods does not use up what all share.
        self.peers.check_key(&rate_limit_key(peer)).map_err(|until| limited("this address sends", &until))?;
        self.total.check().map_err(|until| limited("all clients together send", &until))
    }

    /// Counts what a call does beyond one call.
    pub(super) fn further(&self, peer: Option<IpAddr>, calls: usize) -> Result<(), Refusal> {
        let Some(calls) = u32::try_from(calls).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        let too_many = |_| Refusal::new(Code::RateLimited, format!("{calls} more at once are above the limit's burst"));
        if let Some(peer) = peer {
            let peers = self.peers.check_key_n(&rate_limit_key(peer), calls).map_err(too_many)?;
            peers.map_err(|until| limited("this address sends", &until))?;
        }
        let total = self.total.check_n(calls).map_err(too_many)?;
        total.map_err(|until| limited("all clients together send", &until))
    }

    fn permit(&self, waits: bool) -> Result<ConcurrencyPermit, Refusal> {
        let (permits, what) = if waits { (&self.waiting, "that wait") } else { (&self.working, "at work") };
        let permit = Arc::clone(permits)
            .try_acquire_owned()
            .map_err(|_| Refusal::new(Code::Overloaded, format!("all places for calls {what} are taken")))?;
        Ok(ConcurrencyPermit { _permit: Arc::new(permit) })
    }
}

/// The address that a call comes from, if the listener knows it.
pub(super) struct Peer(pub(super) Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())))
    }
}

/// Admits a call or refuses it, before anything of it is looked at.
pub(super) async fn enforce(State(api): State<Api>, mut request: Request, next: Next) -> Result<Response, Refusal> {
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        api.limiters.peer(peer.ip())?;
    }
    let permit = api.limiters.permit(waits(&request))?;
    request.extensions_mut().insert(permit.clone());
    let response = next.run(request).await;
    drop(permit);
    Ok(response)
}

fn waits(request: &Request) -> bool {
    matches!(request.uri().path(), "/v1/events" | "/mcp")
        || request.uri().query().is_some_and(|query| query.contains("wait="))
}

/// Who shares one limit: whoever has an IPv6 address usually has all of its /64.
fn rate_limit_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

fn limited(who: &str, until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Refusal {
    let wait = until.wait_time_from(DefaultClock::default().now());
    let seconds = wait.as_secs().saturating_add(1);
    Refusal::new(Code::RateLimited, format!("{who} more than the limit")).after(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiters(limits: ApiLimits) -> RateLimiters {
        RateLimiters::new(&limits)
    }

    #[test]
    fn a_flood_from_one_peer_leaves_others_alone() {
        let limiters = limiters(ApiLimits { per_peer: Rate::new(1, 3), ..ApiLimits::default() });
        let flood: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            limiters.peer(flood).unwrap();
        }
        let refusal = limiters.peer(flood).unwrap_err();
        assert_eq!(refusal.problem().code, Code::RateLimited);
        assert_eq!(refusal.problem().retry_after, Some(1));
        limiters.peer("192.0.2.2".parse().unwrap()).unwrap();
    }

    #[test]
    fn a_64_of_ipv6_is_one_peer() {
        let ip = |text: &str| rate_limit_key(text.parse().unwrap());
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff:2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }

    #[test]
    fn what_all_send_together_is_limited() {
        let limiters = limiters(ApiLimits { total: Rate::new(1, 2), ..ApiLimits::default() });
        limiters.peer("192.0.2.1".parse().unwrap()).unwrap();
        limiters.peer("192.0.2.2".parse().unwrap()).unwrap();
        assert_eq!(limiters.peer("192.0.2.3".parse().unwrap()).unwrap_err().problem().code, Code::RateLimited);
    }

    #[test]
    fn payments_of_a_batch_count_singly() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let code = |refused: Result<(), Refusal>| refused.unwrap_err().problem().code;
        let limiters = limiters(ApiLimits { per_peer: Rate::new(1, 10), ..ApiLimits::default() });
        limiters.peer(peer).unwrap();
        limiters.further(Some(peer), 0).unwrap();
        assert_eq!(code(limiters.further(Some(peer), 10)), Code::RateLimited);
        limiters.further(Some(peer), 9).unwrap();
        assert_eq!(code(limiters.further(Some(peer), 1)), Code::RateLimited);
        // More than the limit ever allows at once.
        assert_eq!(code(limiters.further(Some("192.0.2.2".parse().unwrap()), 11)), Code::RateLimited);
    }

    #[test]
    fn calls_that_wait_take_no_place_from_those_at_work() {
        let limiters = limiters(ApiLimits { working: 1, waiting: 1, ..ApiLimits::default() });
        let waiting = limiters.permit(true).unwrap();
        assert_eq!(limiters.permit(true).err().unwrap().problem().code, Code::Overloaded);
        let working = limiters.permit(false).unwrap();
        assert_eq!(limiters.permit(false).err().unwrap().problem().code, Code::Overloaded);
        drop((waiting, working));
        assert!(limiters.permit(true).is_ok() && limiters.permit(false).is_ok());
    }

    #[test]
    fn idle_peers_are_forgotten() {
        let limiters = limiters(ApiLimits { per_peer: Rate::new(u32::MAX, 1), ..ApiLimits::default() });
        for last in 0..100 {
            limiters.peer(IpAddr::from([192, 0, 2, last])).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        limiters.forget_idle();
        assert_eq!(limiters.peers.len(), 0);
    }
}
