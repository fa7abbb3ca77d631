//! What this machine does at best: recovering signatures, and getting bytes onto its disk.

use std::{
    fs::File,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use alloy::signers::{SignerSync, local::PrivateKeySigner};
use alloy_primitives::{B256, keccak256};
use eyre::{OptionExt, Result, ensure, eyre};
use stipend_bindings::recover;

use crate::{
    report::{Better, Figure},
    stats::{millis, percentile},
};

/// The cores that the targets are for.
pub(crate) const CORES: usize = 2;

/// How long signatures are recovered for.
const RECOVERING: Duration = Duration::from_millis(400);
/// How many different ones.
const SIGNATURES: usize = 64;

/// What is written each time, and how many times: a page of SQLite.
const PAGE: usize = 4_096;
const WRITES: usize = 500;

/// The limits, from all samples so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// Signatures recovered per second on two cores: the best sample, since what others take away is no limit.
    pub(crate) recovery: f64,
    /// Milliseconds of each write and fdatasync.
    fdatasync: Vec<f64>,
}

impl Limits {
    /// Takes one more sample, in about a second. `dir` is on the disk that counts.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn sample(&mut self, dir: &Path) -> Result<()> {
        self.recovery = self.recovery.max(recoveries_per_second()?);
        self.fdatasync.extend(fdatasync(dir)?);
        Ok(())
    }

    /// Milliseconds of a write and fdatasync that `part` of them do not exceed.
    pub(crate) fn fdatasync(&self, part: f64) -> Result<f64> {
        percentile(&mut self.fdatasync.clone(), part).ok_or_eyre("no sample of the disk")
    }

    /// Themselves.
    pub(crate) fn figures(&self) -> Result<[Figure; 2]> {
        let fdatasync = self.fdatasync(0.99)?;
        Ok([
            Figure::new("limit: signatures recovered on two cores", "1/s", Better::Higher, self.recovery),
            Figure::new("limit: 4 KiB written and synced, p99", "ms", Better::Lower, fdatasync),
        ])
    }
}

fn recoveries_per_second() -> Result<f64> {
    let signer = PrivateKeySigner::from_bytes(&keccak256("stipend bench: limits"))?;
    let digests = (0..SIGNATURES).map(|number| keccak256(number.to_be_bytes()));
    let signed: Vec<(B256, [u8; 65])> =
        digests.map(|digest| Ok((digest, signer.sign_hash_sync(&digest)?.as_bytes()))).collect::<Result<_>>()?;
    let recovering = || -> Result<f64> {
        let (start, mut count) = (Instant::now(), 0_u64);
        while start.elapsed() < RECOVERING {
            for (digest, signature) in &signed {
                ensure!(recover(*digest, signature)? == signer.address(), "recovered somebody else");
                count += 1;
            }
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CORES).map(|_| scope.spawn(recovering)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| eyre!("a thread panicked"))?).sum()
    })
}

fn fdatasync(dir: &Path) -> Result<Vec<f64>> {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path)?;
    let page = vec![0xa5; PAGE];
    let times = (0..WRITES).map(|_| {
        let start = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        Ok(millis(start.elapsed()))
    });
    let times = times.collect::<Result<_>>()?;
    std::fs::remove_file(path)?;
    Ok(times)
}
