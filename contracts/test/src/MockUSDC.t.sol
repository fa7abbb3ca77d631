// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Vm, VmSafe} from "forge-std/Vm.sol";
import {OperatorTest} from "../base/OperatorTest.sol";
import {MockUSDCProxy} from "../mocks/MockUSDCProxy.sol";

/// @dev Says yes to the token, and to nobody else.
contract WalletOfTheToken is IERC1271 {
    address private immutable TOKEN;

    constructor(address token) {
        TOKEN = token;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return msg.sender == TOKEN ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}

/// @notice What FiatTokenV2_2 does and another token might not.
contract MockUSDCTest is OperatorTest {
    uint256 private constant AMOUNT = 1_234_567;
    bytes32 private constant NONCE = keccak256("nonce");
    bytes private constant BLACKLISTED = "Blacklistable: account is blacklisted";

    function setUp() public override {
        super.setUp();
        usdc.mint(operator, CAP);
        usdc.mint(payee, 1);
    }

    // ---------------------------------------------------------------- blacklist

    /// @dev An allowance is no transfer: the blacklist is asked when somebody uses it.
    function test_approvesAndPermits_whoeverIsBlacklisted() public {
        usdc.blacklist(operator);
        usdc.blacklist(stranger);
        usdc.blacklist(address(escrow));

        vm.startPrank(operator);
        usdc.approve(stranger, 2);
        usdc.increaseAllowance(stranger, 3);
        usdc.decreaseAllowance(stranger, 4);
        vm.stopPrank();
        assertEq(usdc.allowance(operator, stranger), 1);
        usdc.permit(operator, address(escrow), AMOUNT, NOW, _permit(AMOUNT, NOW));
        assertEq(usdc.allowance(operator, address(escrow)), AMOUNT);

        vm.expectRevert(BLACKLISTED);
        vm.prank(stranger);
        usdc.transferFrom(operator, payee, 1);
    }

    function test_asksTheBlacklist_forCallerPayerAndPayee() public {
        vm.prank(operator);
        usdc.approve(stranger, 3);
        address[3] memory all = [stranger, operator, payee];
        for (uint256 i = 0; i < all.length; ++i) {
            usdc.blacklist(all[i]);
            vm.expectRevert(BLACKLISTED);
            vm.prank(stranger);
            usdc.transferFrom(operator, payee, 1);
            usdc.unBlacklist(all[i]);
        }
        vm.prank(stranger);
        usdc.transferFrom(operator, payee, 1);
    }

    /// @dev Circle blacklisted the token itself when it moved the blacklist.
    function test_reverts_whenSentToTheToken() public {
        assertTrue(usdc.isBlacklisted(address(usdc)));
        vm.expectRevert(BLACKLISTED);
        vm.prank(operator);
        usdc.transfer(address(usdc), 1);
        vm.expectRevert(BLACKLISTED);
        usdc.mint(address(usdc), 1);
        bytes memory signature = _sign(operatorKey, _authorizationDigest(address(usdc)));
        vm.expectRevert(BLACKLISTED);
        _authorize(address(usdc), signature);
    }

    // ---------------------------------------------------------------- signatures

    function test_reverts_whenASignatureIsMalformed() public {
        bytes memory good = _sign(operatorKey, _authorizationDigest(payee));
        (bytes32 r, bytes32 s) = abi.decode(good, (bytes32, bytes32));
        uint8 v = uint8(good[64]);
        bytes32 highS = bytes32(ORDER - uint256(s));

        _assertMalformed("", "ECRecover: invalid signature length");
        _assertMalformed(abi.encodePacked(r, s), "ECRecover: invalid signature length");
        _assertMalformed(bytes.concat(good, hex"00"), "ECRecover: invalid signature length");
        _assertMalformed(abi.encodePacked(r, s, uint8(26)), "ECRecover: invalid signature 'v' value");
        _assertMalformed(abi.encodePacked(r, s, v - 27), "ECRecover: invalid signature 'v' value");
        _assertMalformed(abi.encodePacked(r, s, uint8(29)), "ECRecover: invalid signature 'v' value");
        _assertMalformed(abi.encodePacked(r, highS, 55 - v), "ECRecover: invalid signature 's' value");
        _assertMalformed(abi.encodePacked(r, highS, uint8(0)), "ECRecover: invalid signature 's' value");
        _assertMalformed(abi.encodePacked(bytes32(0), s, v), "ECRecover: invalid signature");

        _authorize(payee, good);
        assertEq(usdc.balanceOf(payee), AMOUNT + 1);
    }

    /// @dev By each of the token's verbs that take a signature.
    function _assertMalformed(bytes memory signature, bytes memory message) private {
        vm.expectRevert(message);
        _authorize(payee, signature);
        vm.expectRevert(message);
        vm.prank(payee);
        usdc.receiveWithAuthorization(operator, payee, AMOUNT, 0, NOW + 1, NONCE, signature);
        vm.expectRevert(message);
        usdc.cancelAuthorization(operator, NONCE, signature);
        vm.expectRevert(message);
        usdc.permit(operator, stranger, AMOUNT, NOW, signature);
    }

    function test_reverts_whenSomebodyElseSigned() public {
        bytes memory signature = _sign(agentKey, _authorizationDigest(payee));
        vm.expectRevert("FiatTokenV2: invalid signature");
        _authorize(payee, signature);
        vm.expectRevert("FiatTokenV2: invalid signature");
        usdc.cancelAuthorization(operator, NONCE, signature);
        vm.expectRevert("EIP2612: invalid signature");
        usdc.permit(operator, stranger, AMOUNT, NOW, signature);
    }

    /// @dev Not by the library that checks the signature: its code runs in the token's name.
    function test_asksTheWallet_itself() public {
        vm.etch(operator, address(new WalletOfTheToken(address(usdc))).code);
        _authorize(payee, "");
        assertEq(usdc.balanceOf(payee), AMOUNT + 1);
    }

    /// @dev A wallet is no key: its signature may be of any form, and the token says that it is invalid.
    function test_reverts_whenTheWalletRefuses() public {
        vm.etch(operator, address(new WalletOfTheToken(stranger)).code);
        vm.expectRevert("FiatTokenV2: invalid signature");
        _authorize(payee, "");
        vm.expectRevert("EIP2612: invalid signature");
        usdc.permit(operator, stranger, AMOUNT, NOW, "");
    }

    /// @dev Circle renamed the token on some chains, and signatures under the name before are void from then on.
    function test_domainFollowsTheName() public {
        bytes memory signature = _sign(operatorKey, _authorizationDigest(payee));
        vm.store(address(usdc), 0, bytes32(bytes.concat("USDC", new bytes(27), hex"08")));
        assertEq(usdc.name(), "USDC");
        bytes32 kind = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
        bytes32 domain = keccak256(abi.encode(kind, keccak256("USDC"), keccak256("2"), block.chainid, address(usdc)));
        assertEq(usdc.DOMAIN_SEPARATOR(), domain);

        vm.expectRevert("FiatTokenV2: invalid signature");
        _authorize(payee, signature);
        _authorize(payee, _sign(operatorKey, _authorizationDigest(payee)));
    }

    // ---------------------------------------------------------------- the rest

    function test_changesAllowances() public {
        vm.startPrank(operator);
        usdc.increaseAllowance(stranger, 7);
        usdc.decreaseAllowance(stranger, 2);
        assertEq(usdc.allowance(operator, stranger), 5);
        vm.expectRevert("ERC20: decreased allowance below zero");
        usdc.decreaseAllowance(stranger, 6);
        vm.expectRevert("SafeMath: addition overflow");
        usdc.increaseAllowance(stranger, type(uint256).max - 4);

        usdc.pause();
        vm.expectRevert("Pausable: paused");
        usdc.increaseAllowance(stranger, 1);
        vm.expectRevert("Pausable: paused");
        usdc.decreaseAllowance(stranger, 1);
    }

    /// @dev Circle's roles are not needed here, so that a test can do what Circle could.
    function test_obeysAnybody(address anybody) public {
        vm.assume(
            anybody != address(0) && anybody != address(usdc) && anybody != payee
                && anybody != MockUSDCProxy(address(usdc)).admin()
        );
        vm.startPrank(anybody);
        usdc.mint(payee, 1);
        assertEq(usdc.balanceOf(payee), 2);
        usdc.blacklist(payee);
        assertTrue(usdc.isBlacklisted(payee));
        usdc.unBlacklist(payee);
        assertFalse(usdc.isBlacklisted(payee));
        usdc.pause();
        assertTrue(usdc.paused());
        usdc.unpause();
        assertFalse(usdc.paused());
    }

    function test_reverts_whenInitializedAgain() public {
        vm.expectRevert("FiatToken: contract is already initialized");
        usdc.initialize();
    }

    // ---------------------------------------------------------------- costs

    /// @dev What a call costs apart from a compiler's work: the slots that it reads, and the code that it reaches. They are
    /// those of the real token behind its proxy.
    function test_reachesWhatTheRealTokenReaches() public {
        _record();
        vm.prank(operator);
        usdc.transfer(payee, AMOUNT);
        // The proxy's two, whether the token is paused, and two balances.
        _assertReached({delegations: 1, slots: 5});

        bytes memory signature = _sign(operatorKey, _authorizationDigest(payee));
        _record();
        _authorize(payee, signature);
        // The library of signatures; the name, and the state of the authorization.
        _assertReached({delegations: 2, slots: 7});

        signature = _permit(AMOUNT, NOW);
        _record();
        usdc.permit(operator, address(escrow), AMOUNT, NOW, signature);
        // The name, the nonce and the allowance.
        _assertReached({delegations: 2, slots: 6});
    }

    function _record() private {
        vm.startStateDiffRecording();
        vm.record();
    }

    function _assertReached(uint256 delegations, uint256 slots) private {
        Vm.AccountAccess[] memory accesses = vm.stopAndReturnStateDiff();
        uint256 delegated = 0;
        for (uint256 i = 0; i < accesses.length; ++i) {
            if (accesses[i].kind == VmSafe.AccountAccessKind.DelegateCall) ++delegated;
        }
        assertEq(delegated, delegations, "delegations");

        (bytes32[] memory reads,) = vm.accesses(address(usdc));
        uint256 distinct = 0;
        for (uint256 i = 0; i < reads.length; ++i) {
            uint256 first = 0;
            while (reads[first] != reads[i]) ++first;
            if (first == i) ++distinct;
        }
        assertEq(distinct, slots, "slots");
    }

    // ---------------------------------------------------------------- what they sign

    function _authorizationDigest(address to) private view returns (bytes32) {
        bytes32 kind = usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH();
        bytes32 content = keccak256(abi.encode(kind, operator, to, AMOUNT, 0, NOW + 1, NONCE));
        return _digest(usdc.DOMAIN_SEPARATOR(), content);
    }

    function _authorize(address to, bytes memory signature) private {
        usdc.transferWithAuthorization(operator, to, AMOUNT, 0, NOW + 1, NONCE, signature);
    }
}
