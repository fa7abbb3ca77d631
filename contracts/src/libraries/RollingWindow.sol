// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Terms} from "../interfaces/Types.sol";

/// @title RollingWindow
/// @notice What was committed within the last `window` seconds, in one slot: a shift register of seven lanes, each for a
/// sixth of the window, rounded up. Seven of them always contain the whole window, so no interval of its length takes
/// more than `windowCap`; at worst what was committed counts for 7 · ⌈window / 6⌉ seconds.
///
/// | bits    | holds                                                              |
/// | ------- | ------------------------------------------------------------------ |
/// | 0–31    | what was committed in the newest bucket, in units                  |
/// | 32–223  | six older buckets, 32 bits each                                    |
/// | 224–255 | number of the newest bucket: its time / (a sixth of the window)    |
///
/// @dev A unit is the smallest power of two in which the cap fits a lane: one base unit below 4,294 USDC. Amounts round
/// up, the cap rounds down.
library RollingWindow {
    uint256 private constant LANE = type(uint32).max;

    /// @dev What the window holds with one more amount, which is never zero; zero if the amount does not fit.
    function add(uint256 word, Terms calldata terms, uint64 amount) internal view returns (uint256) {
        unchecked {
            uint256 bucket = block.timestamp / ((uint256(terms.window) + 5) / 6);
            // Seven buckets on, and beyond, the shift leaves nothing.
            uint256 lanes = (word << (32 * (bucket - (word >> 224)))) & (type(uint256).max >> 32);

            (uint256 cap, uint256 units) = (terms.windowCap, amount);
            while (cap >= LANE) (cap, units) = (cap >> 1, (units + 1) >> 1);
            // The sum of the lanes is at most the cap, and so below LANE: it is what remains modulo LANE, as the sum of
            // a number's digits remains modulo nine.
            // slither-disable-next-line weak-prng
            return lanes % LANE + units > cap ? 0 : (bucket << 224) | (lanes + units);
        }
    }
}
