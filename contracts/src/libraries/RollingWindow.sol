// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Terms} from "../interfaces/Types.sol";

/// @dev What was committed lately, in one slot:
///
/// | bits    | holds                                                              |
/// | ------- | ------------------------------------------------------------------ |
/// | 0–31    | what was committed in the newest bucket, in units                  |
/// | 32–223  | six older buckets, 32 bits each                                    |
/// | 224–255 | number of the newest bucket: its time / (a sixth of the window)    |
type Window is uint256;

/// @title RollingWindow
/// @notice Bounds what is committed within any `window` seconds. A shift register has seven lanes, each for a sixth of the
/// window, rounded up. Seven of them always contain the whole window, so no interval of its length takes more than
/// `windowCap`; at worst what was committed counts for 7 · ⌈window / 6⌉ seconds.
///
/// @dev A unit is the smallest power of two in which the cap fits a lane: one base unit below 4,294 USDC. Amounts round
/// up, the cap rounds down.
library RollingWindow {
    uint256 private constant LANE = type(uint32).max;

    /// @notice Adds an amount, now, if it fits.
    /// @param register What was committed before
    /// @param terms Have a window
    /// @param amount Base units
    /// @return fits Whether no more than `windowCap` is committed within the window with it
    /// @return added The register with it; of no use if it does not fit
    function add(Window register, Terms calldata terms, uint64 amount) internal view returns (bool fits, Window added) {
        uint256 word = Window.unwrap(register);
        unchecked {
            uint256 bucket = block.timestamp / ((uint256(terms.window) + 5) / 6);
            // Seven buckets on, and beyond, the shift leaves nothing.
            uint256 lanes = (word << (32 * (bucket - (word >> 224)))) & (type(uint256).max >> 32);

            (uint256 cap, uint256 units) = (terms.windowCap, amount);
            while (cap >= LANE) (cap, units) = (cap >> 1, (units + 1) >> 1);
            // The sum of the lanes is at most the cap, and so below LANE: it is what remains modulo LANE, as the sum of
            // a number's digits remains modulo nine.
            // slither-disable-next-line weak-prng
            fits = lanes % LANE + units <= cap;
            added = Window.wrap((bucket << 224) | (lanes + units));
        }
    }
}
