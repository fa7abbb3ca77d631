// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {Terms} from "../interfaces/Types.sol";

/// @title PurseTerms
/// @notice Terms without `payees`, as they lie behind a purse's code: 136 bytes, each field as wide as its type. A word per
/// field would cost another 50,000 gas for each purse.
library PurseTerms {
    function pack(Terms calldata terms) internal pure returns (bytes memory) {
        // No field is longer or shorter for its value, so no two terms give the same bytes.
        return abi.encodePacked(
            terms.operator,
            terms.agent,
            terms.guardian,
            terms.cap,
            terms.perPayment,
            terms.windowCap,
            terms.window,
            terms.start,
            terms.expiry,
            terms.captureEnd,
            terms.intent,
            terms.refundsRestoreBudget
        );
    }

    /// @param purse A purse
    /// @param payees What its code leaves out
    function load(address purse, bytes32 payees) internal view returns (Terms memory terms) {
        bytes memory packed = Clones.fetchCloneArgs(purse);
        // Each cast cuts off the fields before.
        terms.operator = address(uint160(_endingAt(packed, 20)));
        terms.agent = address(uint160(_endingAt(packed, 40)));
        terms.guardian = address(uint160(_endingAt(packed, 60)));
        terms.cap = uint64(_endingAt(packed, 68));
        terms.perPayment = uint64(_endingAt(packed, 76));
        terms.windowCap = uint64(_endingAt(packed, 84));
        terms.window = uint32(_endingAt(packed, 88));
        terms.start = uint40(_endingAt(packed, 93));
        terms.expiry = uint40(_endingAt(packed, 98));
        terms.captureEnd = uint40(_endingAt(packed, 103));
        terms.payees = payees;
        terms.intent = bytes32(_endingAt(packed, 135));
        terms.refundsRestoreBudget = uint8(_endingAt(packed, 136)) != 0;
    }

    /// @dev The word whose last byte is the one before `end`.
    function _endingAt(bytes memory packed, uint256 end) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(packed, end)) // its length is a word, too
        }
    }
}
