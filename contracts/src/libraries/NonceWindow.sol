// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Mandate, Reason} from "../interfaces/Types.sol";

/// @title NonceWindow
/// @notice Nonces in any order within a window that moves up: the anti-replay window of RFC 6479, in the mandate's own
/// slot. A nonce above the window pulls it up, just as far as needed, and so retires the lowest.
library NonceWindow {
    /// @dev The highest place in the window; places count from `nonceBase`.
    uint32 private constant LAST = 87;

    /// @dev Why the nonce cannot be used; None if it can.
    function check(Mandate memory mandate, uint32 nonce) internal pure returns (Reason) {
        if (nonce < mandate.nonceBase) return Reason.NonceRetired;
        // Above the window the shift leaves nothing.
        unchecked {
            return (mandate.nonceBits >> (nonce - mandate.nonceBase)) & 1 == 0 ? Reason.None : Reason.NonceUsed;
        }
    }

    /// @dev Uses a nonce that `check` has passed, so that nothing here wraps.
    function use(Mandate memory mandate, uint32 nonce) internal pure {
        unchecked {
            uint32 place = nonce - mandate.nonceBase;
            if (place > LAST) {
                mandate.nonceBits >>= place - LAST;
                mandate.nonceBase = nonce - LAST;
                place = LAST;
            }
            mandate.nonceBits |= uint88(1) << place;
        }
    }
}
