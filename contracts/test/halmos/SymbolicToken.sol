// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice A token for proofs: counts what moves into and out of the escrow, and refuses whichever transfers it is told to.
contract SymbolicToken {
    address public escrow;
    /// @dev Bit i: whether the i-th transfer is refused.
    uint256 public refusals;
    uint256 public into;
    uint256 public out;

    function decimals() external pure returns (uint8) {
        return 6;
    }

    function setUp(address escrow_, uint256 refusals_) external {
        (escrow, refusals) = (escrow_, refusals_);
    }

    function balanceOf(address) external view returns (uint256) {
        return (1 << 128) + into - out;
    }

    function transfer(address, uint256 amount) external returns (bool) {
        if (_refused()) return false;
        out += amount;
        return true;
    }

    function transferFrom(address, address to, uint256 amount) public returns (bool) {
        if (_refused()) return false;
        if (to == escrow) into += amount;
        return true;
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 amount,
        uint256,
        uint256,
        bytes32,
        bytes calldata
    ) external {
        require(transferFrom(from, to, amount));
    }

    function permit(address, address, uint256, uint256, bytes calldata) external {
        require(!_refused());
    }

    function _refused() private returns (bool refused) {
        refused = refusals & 1 == 1;
        refusals >>= 1;
    }
}
