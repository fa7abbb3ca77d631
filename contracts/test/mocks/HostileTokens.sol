// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MockUSDC} from "./MockUSDC.sol";

/// @dev Takes a fee from every transfer: 1 unit less arrives.
contract TokenTakingAFee is MockUSDC {
    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value - 1);
    }
}

/// @dev Delivers more than was asked for.
contract TokenDeliveringMore is MockUSDC {
    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value + 1);
    }
}

/// @dev Pulls, and takes more from the receiver than it brings.
contract TokenShrinkingTheReceiver is MockUSDC {
    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value);
        super._transfer(to, from, 2 * value);
    }
}

/// @dev Says no without a revert.
contract TokenReturningFalse is MockUSDC {
    function transfer(address, uint256) external pure override returns (bool) {
        return false;
    }
}

/// @dev Says no to a pull without a revert.
contract TokenReturningFalseToPulls is MockUSDC {
    function transferFrom(address, address, uint256) external pure override returns (bool) {
        return false;
    }
}

/// @dev Says yes to a pull, and moves nothing.
contract TokenFeigningPulls is MockUSDC {
    function transferFrom(address, address, uint256) external pure override returns (bool) {
        return true;
    }
}

/// @dev Answers a transfer with a word that is neither true nor false.
contract TokenReturningNonsense is MockUSDC {
    function transfer(address, uint256) external pure override returns (bool) {
        assembly {
            mstore(0, 2)
            return(0, 32)
        }
    }
}

/// @dev Reverts a transfer without a word.
contract TokenReverting is MockUSDC {
    function transfer(address, uint256) external pure override returns (bool) {
        assembly {
            revert(0, 0)
        }
    }
}

/// @dev Reverts a transfer with a megabyte.
contract TokenRevertingWithABomb is MockUSDC {
    function transfer(address, uint256) external pure override returns (bool) {
        assembly {
            revert(0, 1000000)
        }
    }
}

/// @dev Refuses to pay one amount, and that only.
contract TokenRefusingAnAmount is MockUSDC {
    uint256 private immutable REFUSED;

    constructor(uint256 refused) {
        REFUSED = refused;
    }

    function _transfer(address from, address to, uint256 value) internal override {
        require(value != REFUSED, "refused");
        super._transfer(from, to, value);
    }
}

/// @dev Calls its caller back before it moves anything, and hands on how that failed.
contract TokenReentering is MockUSDC {
    bytes private _reentry;

    function reenterWith(bytes calldata reentry) external {
        _reentry = reentry;
    }

    function _transfer(address from, address to, uint256 value) internal override {
        (bool ok, bytes memory answer) = msg.sender.call(_reentry);
        if (!ok) {
            assembly {
                revert(add(answer, 0x20), mload(answer))
            }
        }
        super._transfer(from, to, value);
    }
}

/// @dev Calls its caller back and does not mind when that fails.
contract TokenReenteringQuietly is MockUSDC {
    bytes private _reentry;
    bool public reentered;

    function reenterWith(bytes calldata reentry) external {
        _reentry = reentry;
    }

    function _transfer(address from, address to, uint256 value) internal override {
        (reentered,) = msg.sender.call(_reentry);
        super._transfer(from, to, value);
    }
}

/// @dev Asks its caller something before it moves anything, and remembers the answer.
contract TokenAskingBack is MockUSDC {
    bytes private _question;
    bytes public answer;

    function ask(bytes calldata question) external {
        _question = question;
    }

    function _transfer(address from, address to, uint256 value) internal override {
        (, answer) = msg.sender.staticcall(_question);
        super._transfer(from, to, value);
    }
}

/// @dev Tells receivers of what they get, with all gas, as tokens after ERC-777 and ERC-1363 do.
contract TokenTellingReceivers is MockUSDC {
    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value);
        if (to.code.length == 0) return;
        (bool ok,) = to.call("");
        require(ok, "not received");
    }
}

/// @dev Burns all gas when it is told of what it gets.
contract PayeeBurningGas {
    fallback() external {
        while (true) {}
    }
}

/// @dev Permits nothing, and burns all the gas that it gets.
contract TokenBurningGasForPermits is MockUSDC {
    function permit(address, address, uint256, uint256, bytes memory) public pure override {
        while (true) {}
    }
}

/// @dev Permits nothing, and says so in a megabyte.
contract TokenRefusingPermitsWithABomb is MockUSDC {
    function permit(address, address, uint256, uint256, bytes memory) public pure override {
        assembly {
            revert(0, 1000000)
        }
    }
}

/// @dev Permits nothing, and is content with that.
contract TokenIgnoringPermits is MockUSDC {
    function permit(address, address, uint256, uint256, bytes memory) public pure override {}
}

/// @dev Calls its caller back in the place of what was authorized to move, and does not mind when that fails.
contract TokenReenteringFromAuthorizations is MockUSDC {
    bytes private _reentry;
    bool public reentered;

    function reenterWith(bytes calldata reentry) external {
        _reentry = reentry;
    }

    function receiveWithAuthorization(address, address, uint256, uint256, uint256, bytes32, bytes memory)
        public
        override
    {
        (reentered,) = msg.sender.call(_reentry);
    }
}

/// @dev Calls its caller back when it is asked to permit, and does not mind when that fails.
contract TokenReenteringFromPermits is MockUSDC {
    bytes private _reentry;
    bool public reentered;

    function reenterWith(bytes calldata reentry) external {
        _reentry = reentry;
    }

    function permit(address, address, uint256, uint256, bytes memory) public override {
        (reentered,) = msg.sender.call(_reentry);
    }
}
