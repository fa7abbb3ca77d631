// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @dev An honest wallet: whatever its owner signed.
contract Wallet is IERC1271 {
    address private immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        return ECDSA.recover(hash, signature) == OWNER ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}

/// @dev Says yes to everything.
contract WalletAcceptingAll {
    fallback() external {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 32)
        }
    }
}

/// @dev Says yes, with more words behind it.
contract WalletTalkingOn {
    fallback() external {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 128)
        }
    }
}

/// @dev Says no.
contract WalletRefusing {
    fallback() external {
        assembly {
            mstore(0, not(0))
            return(0, 32)
        }
    }
}

/// @dev Says yes, with dirt in the rest of the word.
contract WalletReturningDirt {
    fallback() external {
        assembly {
            mstore(0, or(shl(224, 0x1626ba7e), 1))
            return(0, 32)
        }
    }
}

/// @dev Says yes in four bytes instead of a word.
contract WalletReturningTooLittle {
    fallback() external {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 4)
        }
    }
}

/// @dev Says yes, and reverts.
contract WalletReverting {
    fallback() external {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            revert(0, 32)
        }
    }
}

/// @dev Returns nothing.
contract WalletSilent {
    fallback() external {}
}

/// @dev Burns all gas that it gets.
contract WalletBurningGas {
    fallback() external {
        while (true) {}
    }
}

/// @dev Says yes at the head of as much as its gas can return.
contract WalletReturningABomb {
    fallback() external {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 190000)
        }
    }
}

/// @dev Says yes only if it gets nearly all of the gas that wallets are promised.
contract WalletThirsty {
    fallback() external {
        assembly {
            if lt(gas(), 299000) { revert(0, 0) }
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 32)
        }
    }
}

/// @dev Says yes for more gas than a row of a batch gets: a large multisig, or a curve in Solidity.
contract WalletExpensive {
    fallback() external {
        assembly {
            let start := gas()
            for {} lt(sub(start, gas()), 600000) {} {}
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 32)
        }
    }
}

/// @dev Calls its caller back, and says yes only if that succeeds.
contract WalletReentering {
    bytes private _reentry;

    function reenterWith(bytes calldata reentry) external {
        _reentry = reentry;
    }

    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        (bool reentered,) = msg.sender.call{gas: 90_000}(_reentry);
        return reentered ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}

/// @dev Says yes only if it may change state.
contract WalletWriting {
    uint256 private _asked;

    fallback() external {
        ++_asked;
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 32)
        }
    }
}
