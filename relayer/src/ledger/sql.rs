//! SQL conditions that several queries share, so that they mean the same everywhere.

/// Its hold is not in the chain, and nothing final says that it can never be.
pub(super) const AWAITING_HOLD: &str = "state NOT IN ('closed', 'failed') AND held_hash IS NULL AND released = 0";

/// What it holds can be swept: a final block has reached its capture end, so that nothing is captured
/// or released any more.
pub(super) const HOLDS_ARE_OVER: &str = "held > 0 AND json_extract(terms, '$.capture_end') <= (SELECT time FROM block
    WHERE final ORDER BY number DESC LIMIT 1)";
