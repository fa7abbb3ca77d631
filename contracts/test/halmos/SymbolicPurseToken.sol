// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice A token for proofs of one purse: counts what leaves it, and to whom. What the purse has is arbitrary.
contract SymbolicPurseToken {
    bytes32 public constant DOMAIN_SEPARATOR = keccak256("the token's domain");

    address private _purse;
    uint256 private _balance;
    uint256 private _allowance;
    address private _spender;
    mapping(address to => uint256) public received;
    uint256 public left;

    function decimals() external pure returns (uint8) {
        return 6;
    }

    function setUp(address purse, uint256 balance) external {
        (_purse, _balance) = (purse, balance);
    }

    /// @dev Anybody but the purse has as much as has come from there.
    function balanceOf(address account) external view returns (uint256) {
        return account == _purse ? _balance - left : received[account];
    }

    function allowance(address owner, address) external view returns (uint256) {
        return owner == _purse ? _allowance : 0;
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        if (msg.sender == _purse) (_spender, _allowance) = (spender, amount);
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        if (msg.sender == _purse) _leave(to, amount);
        return true;
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        require(from == _purse && msg.sender == _spender && amount <= _allowance);
        _allowance -= amount;
        _leave(to, amount);
        return true;
    }

    function _leave(address to, uint256 amount) private {
        require(amount <= _balance - left);
        left += amount;
        received[to] += amount;
    }
}
