//! The load: requests that were built before, on connections that are kept, each answer checked. One that is wrong ends
//! the run.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use eyre::{Result, ensure};
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep_until},
};

use crate::{
    http::{Answer, Connection},
    payments::BATCH,
    schedule::Schedule,
    stats::{millis, per_second, percentile},
};

/// What answers must be.
pub(crate) type Check = fn(Answer<'_>) -> bool;

/// A payment that was accepted, and is stored.
pub(crate) fn is_reserved(answer: Answer<'_>) -> bool {
    const STATE: &[u8] = br#""state":"reserved""#;
    answer.status == 202 && answer.body.windows(STATE.len()).any(|window| window == STATE)
}

/// Payments of one call that were all accepted.
pub(crate) fn are_reserved(answer: Answer<'_>) -> bool {
    const ACCEPTED: &[u8] = br#"{"status":202,"#;
    const STATE: &[u8] = br#""state":"reserved""#;
    let count = |part: &[u8]| answer.body.windows(part.len()).filter(|window| *window == part).count();
    answer.status == 200 && count(ACCEPTED) == BATCH && count(STATE) == BATCH
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) count: u64,
    pub(crate) time: Duration,
    /// Milliseconds of each request.
    latencies: Vec<f64>,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.count, self.time)
    }

    /// Milliseconds that `part` of the requests did not exceed.
    pub(crate) fn latency(&mut self, part: f64) -> f64 {
        percentile(&mut self.latencies, part).unwrap_or(f64::NAN)
    }
}

/// As many connections as given, each of which sends its next request as soon as the last is answered; for `time`, or
/// until there are no more requests.
///
/// # Errors
/// At the first answer that is not as it must be.
pub(crate) async fn closed_loop(
    to: SocketAddr,
    connections: usize,
    time: Duration,
    requests: &mut VecDeque<Vec<u8>>,
    check: Check,
) -> Result<Load> {
    let open = connect(to, connections).await?;
    let (queue, latencies) = shared(requests);
    let start = Instant::now();
    let ended = Rc::new(Cell::new(start + time));
    let tasks = open.into_iter().map(|mut connection| {
        let (queue, latencies, ended) = (queue.clone(), latencies.clone(), ended.clone());
        async move {
            while Instant::now() < ended.get() {
                let Some(request) = queue.borrow_mut().pop_front() else {
                    // The others stop as well: a load by fewer connections is another load.
                    ended.set(Instant::now().min(ended.get()));
                    break;
                };
                let latency = timed(&mut connection, &request, Instant::now(), check).await?;
                if Instant::now() <= ended.get() {
                    latencies.borrow_mut().push(latency);
                }
            }
            Ok(())
        }
    });
    all(tasks).await?;
    let time = ended.get() - start;
    Ok(finish(requests, &queue, &latencies, time))
}

/// Requests at their due times, whatever becomes of the earlier ones; latencies count from the due time. `connections` is
/// how many can be under way.
///
/// # Errors
/// At the first answer that is not as it must be, and if there are too few requests.
pub(crate) async fn open_loop(
    to: SocketAddr,
    connections: usize,
    schedule: Schedule,
    requests: &mut VecDeque<Vec<u8>>,
    check: Check,
) -> Result<Load> {
    ensure!(requests.len() as u64 >= schedule.count, "too few requests were prepared");
    let open = connect(to, connections).await?;
    let (queue, latencies) = shared(requests);
    let (start, next) = (Instant::now(), Rc::new(Cell::new(0)));
    let tasks = open.into_iter().map(|mut connection| {
        let (queue, latencies, next) = (queue.clone(), latencies.clone(), next.clone());
        async move {
            while next.get() < schedule.count {
                let due = start + schedule.due(next.replace(next.get() + 1));
                sleep_until(due).await;
                let Some(request) = queue.borrow_mut().pop_front() else { break };
                let latency = timed(&mut connection, &request, due, check).await?;
                latencies.borrow_mut().push(latency);
            }
            Ok(())
        }
    });
    all(tasks).await?;
    let time = start.elapsed();
    Ok(finish(requests, &queue, &latencies, time))
}

async fn connect(to: SocketAddr, connections: usize) -> Result<Vec<Connection>> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(to).await?);
    }
    Ok(open)
}

async fn timed(connection: &mut Connection, request: &[u8], since: Instant, check: Check) -> Result<f64> {
    let answer = connection.call(request).await?;
    ensure!(check(answer), "{} {}", answer.status, String::from_utf8_lossy(answer.body));
    Ok(millis(since.elapsed()))
}

async fn all(tasks: impl Iterator<Item = impl Future<Output = Result<()>> + 'static>) -> Result<()> {
    let (local, mut set) = (LocalSet::new(), JoinSet::new());
    for task in tasks {
        set.spawn_local_on(task, &local);
    }
    local
        .run_until(async {
            while let Some(ended) = set.join_next().await {
                ended??;
            }
            Ok(())
        })
        .await
}

type Shared<T> = Rc<RefCell<T>>;

fn shared(requests: &mut VecDeque<Vec<u8>>) -> (Shared<VecDeque<Vec<u8>>>, Shared<Vec<f64>>) {
    let latencies = Vec::with_capacity(requests.len());
    (Rc::new(RefCell::new(std::mem::take(requests))), Rc::new(RefCell::new(latencies)))
}

/// Gives back the requests that were not sent.
fn finish(
    requests: &mut VecDeque<Vec<u8>>,
    queue: &Shared<VecDeque<Vec<u8>>>,
    latencies: &Shared<Vec<f64>>,
    time: Duration,
) -> Load {
    *requests = queue.take();
    let latencies = latencies.take();
    Load { count: latencies.len() as u64, time, latencies }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Answers each request with `status`, and a head that ends it.
    fn server(status: &'static str) -> SocketAddr {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut lines, mut stream) = (BufReader::new(stream.try_clone().unwrap()).lines(), stream);
                    while let Some(Ok(line)) = lines.next() {
                        if line.is_empty() {
                            let body = r#"{"state":"reserved"}"#;
                            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                            stream.write_all(answer.as_bytes()).unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    fn requests(count: usize) -> VecDeque<Vec<u8>> {
        vec![b"POST / HTTP/1.1\r\n\r\n".to_vec(); count].into()
    }

    #[tokio::test]
    async fn a_closed_loop_ends_with_its_requests() {
        let mut requests = requests(100);
        let hour = Duration::from_secs(3_600);
        let mut load = closed_loop(server("202 Accepted"), 4, hour, &mut requests, is_reserved).await.unwrap();
        assert!(requests.is_empty() && load.time < hour);
        // The first connection that finds none left ends it, and the other three may be waiting for their answer.
        assert!((97..=100).contains(&load.count), "{}", load.count);
        assert!(load.latency(0.5) <= load.latency(0.99) && load.rate() > 0.0);
    }

    #[tokio::test]
    async fn an_open_loop_sends_what_is_due_and_keeps_the_rest() {
        let schedule = Schedule::new(1_000.0, Duration::from_millis(50));
        let (server, mut requests) = (server("202 Accepted"), requests(60));
        let load = open_loop(server, 4, schedule, &mut requests, is_reserved).await.unwrap();
        assert_eq!((load.count, requests.len()), (50, 10));
        assert!(load.time >= schedule.due(49));
        assert!(open_loop(server, 4, schedule, &mut requests, is_reserved).await.is_err());
    }

    #[tokio::test]
    async fn a_wrong_answer_ends_the_run() {
        let error = closed_loop(server("200 OK"), 2, Duration::from_secs(60), &mut requests(9), is_reserved).await;
        assert!(error.unwrap_err().to_string().starts_with("200 "));
    }

    #[test]
    fn only_what_is_reserved_is_accepted() {
        let said = |status, body| is_reserved(Answer { status, body });
        assert!(said(202, br#"{"id":"1","state":"reserved"}"#));
        assert!(!said(202, br#"{"id":"1","state":"settled"}"#));
        assert!(!said(200, br#"{"id":"1","state":"reserved"}"#));
    }
}
