// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {IMandatePurse} from "../../../src/interfaces/IMandatePurse.sol";
import {Terms} from "../../../src/interfaces/Types.sol";
import {PurseTest} from "../../base/PurseTest.sol";
import {
    Wallet,
    WalletAcceptingAll,
    WalletBurningGas,
    WalletExpensive,
    WalletRefusing,
    WalletReturningDirt,
    WalletReturningTooLittle,
    WalletReverting,
    WalletSilent,
    WalletThirsty,
    WalletWriting
} from "../../mocks/Wallets.sol";

/// @notice P2 and P3: what is a signature of the purse, and that nothing else is.
contract IsValidSignatureTest is PurseTest {
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    // ---------------------------------------------------------------- yes

    function test_succeeds_forAPaymentThatAgentAndSubmitterSigned(uint256 value, address sender, bytes32 nonce) public {
        Charge memory charge = _charge(bound(value, 1, PER_PAYMENT));
        charge.nonce = nonce;
        bytes memory signature = _signatureOf(charge);
        _assertAnswers(YES, charge, signature);

        vm.prank(sender);
        usdc.transferWithAuthorization(
            address(purse), payee, charge.value, 0, charge.validBefore, charge.nonce, signature
        );
        assertEq(usdc.balanceOf(payee), charge.value);
        assertEq(usdc.balanceOf(address(purse)), FLOAT - charge.value);
    }

    /// @dev Both forms of a mandate without a list: it needs no proof, and ignores one.
    function test_succeeds_withoutAList_forAnyPayee(address to) public {
        _startAsTheyAre(_unlisted());
        vm.assume(to != address(0) && to != address(purse) && to != address(escrow) && to != address(usdc));
        Charge memory charge = _charge(5);
        charge.to = to;
        bytes32 digest = _digestOf(charge);
        (bytes memory a, bytes memory s) = (_compact(agentKey, digest), _compact(submitterKey, digest));
        assertEq(_join(charge, a, s, "").length, 320);
        _assertAnswers(YES, charge, _join(charge, a, s, ""));
        _assertAnswers(YES, charge, _join(charge, a, s, hex"00"));
        _assertAnswers(YES, charge, _join(charge, a, s, abi.encodePacked(uint8(1), keccak256("any"))));
    }

    function test_succeeds_withoutAMaximumOfOnePayment() public {
        Terms memory terms_ = _purseTerms();
        terms_.perPayment = 0;
        _start(terms_);
        _assertYes(_charge(type(uint256).max));
        _settleCharge(_charge(FLOAT));
        assertEq(usdc.balanceOf(payee), FLOAT);
    }

    /// @dev The longest proof that a byte can count: 255 words.
    function test_succeeds_withAProofOf255Words() public {
        Terms memory terms_ = _purseTerms();
        bytes32 node = _leaf(payee);
        bytes memory proof;
        for (uint256 i = 0; i < 255; ++i) {
            proof = bytes.concat(proof, bytes32(i));
            node = _pair(node, bytes32(i));
        }
        terms_.payees = node;
        _create(terms_);
        _assertAnswersTail(YES, bytes.concat(hex"ff", proof));
        _assertAnswersTail(NO, bytes.concat(hex"fe", proof));
    }

    /// @dev A list of one payee is its own proof: no word, and no byte that counts them.
    function test_succeeds_withoutAProof_forTheOnlyPayee() public {
        Terms memory terms_ = _purseTerms();
        terms_.payees = _leaf(payee);
        _create(terms_);
        _assertAnswersTail(YES, "");
        _assertAnswersTail(YES, hex"00");
        _assertAnswersTail(NO, hex"01");
    }

    /// @dev A purse of an open mandate, with nothing in it.
    function _create(Terms memory terms_) private {
        terms = terms_;
        purse = IMandatePurse(factory.create(terms_));
        id = _open(terms_);
    }

    /// @dev What follows the two signatures and the root.
    function _assertAnswersTail(bytes4 expected, bytes memory tail) private view {
        Charge memory charge = _charge(5);
        bytes32 digest = _digestOf(charge);
        (bytes memory a, bytes memory s) = (_compact(agentKey, digest), _compact(submitterKey, digest));
        _assertAnswers(expected, charge, _join(charge, a, s, tail));
    }

    /// @dev Who asks does not matter: facilitators ask before they send.
    function test_succeeds_whoeverAsks(address asker) public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        bytes32 digest = _digestOf(charge);
        vm.prank(asker);
        assertEq(purse.isValidSignature(digest, signature), YES);
    }

    // ---------------------------------------------------------------- another payment

    /// @dev Each word is bound: in the call, in the signature, and in both without a new signature.
    function test_refuses_whenAnyWordIsAnother(uint256 which, uint256 other) public {
        which = bound(which, 0, 4);
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        Charge memory changed = _changed(charge, which, other);
        vm.assume(keccak256(abi.encode(changed)) != keccak256(abi.encode(charge)));

        _assertAnswers(NO, changed, signature);
        bytes memory mixed = bytes.concat(abi.encode(changed), _from(signature, WORDS));
        _assertAnswers(NO, charge, mixed);
        _assertAnswers(NO, changed, mixed);
    }

    function _changed(Charge memory charge, uint256 which, uint256 other) private pure returns (Charge memory) {
        (address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce) =
            (charge.to, charge.value, charge.validAfter, charge.validBefore, charge.nonce);
        if (which == 0) to = address(uint160(other));
        if (which == 1) value = other;
        if (which == 2) validAfter = other;
        if (which == 3) validBefore = other;
        if (which == 4) nonce = bytes32(other);
        return Charge(to, value, validAfter, validBefore, nonce);
    }

    function test_refuses_onAnotherChain() public {
        Charge memory charge = _charge(5);
        (bytes memory signature, bytes32 digest) = (_signatureOf(charge), _digestOf(charge));
        vm.chainId(block.chainid + 1);
        assertEq(purse.isValidSignature(digest, signature), NO);
        _assertNotPaid(charge, signature);
    }

    /// @dev The same agent, guardian and sellers.
    function test_refuses_whenSignedForAnotherPurse() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        bytes32 digest = _digestOf(charge);
        Terms memory other = _purseTerms();
        other.intent = "other";
        _start(other);
        assertEq(purse.isValidSignature(digest, signature), NO);
        _assertNotPaid(charge, signature);
        bytes memory moved = bytes.concat(_to(signature, 288), terms.payees, _tail());
        _assertNotPaid(charge, moved);
    }

    /// @dev No domain but the token's.
    function test_refuses_underAnotherDomain() public {
        Charge memory charge = _charge(5);
        bytes32 structHash = keccak256(abi.encode(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), address(purse), charge));
        bytes32 digest = _digest(escrow.domainSeparator(), structHash);
        bytes memory signature = _join(charge, _compact(agentKey, digest), _compact(submitterKey, digest), _tail());
        assertEq(purse.isValidSignature(digest, signature), NO);
        _assertAnswers(NO, charge, signature);
    }

    // ---------------------------------------------------------------- another message

    /// @dev Whatever else both keys sign: nothing but a transfer by authorization leaves the purse.
    function test_refuses_anyOtherMessage(bytes32 structHash) public {
        Charge memory charge = _charge(5);
        bytes32[6] memory digests = [
            _digestOf(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), charge),
            _digest(
                usdc.DOMAIN_SEPARATOR(),
                keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), address(purse), charge.nonce))
            ),
            _digest(
                usdc.DOMAIN_SEPARATOR(),
                keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), address(purse), payee, 5, 0, type(uint256).max))
            ),
            _digest(usdc.DOMAIN_SEPARATOR(), structHash),
            keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", structHash)),
            structHash
        ];
        for (uint256 i = 0; i < digests.length; ++i) {
            bytes memory signature =
                _join(charge, _compact(agentKey, digests[i]), _compact(submitterKey, digests[i]), _tail());
            assertEq(purse.isValidSignature(digests[i], signature), NO);
        }
    }

    /// @dev A mandate cannot be funded out of a purse: neither by authorization nor by permit.
    function test_refuses_toOpenAMandate() public {
        Terms memory own = _terms();
        own.operator = address(purse);
        own.cap = 5;
        bytes32 of_ = _idOf(own);
        Charge memory charge = Charge(address(escrow), 5, 0, type(uint256).max, of_);
        bytes32 digest = _digestOf(usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), charge);
        bytes memory signature = _join(charge, _compact(agentKey, digest), _compact(submitterKey, digest), _tail());
        vm.expectRevert("FiatTokenV2: invalid signature");
        escrow.openWithAuthorization(own, 0, type(uint256).max, signature);

        signature = _join(charge, _compact(agentKey, of_), _compact(submitterKey, of_), _tail());
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.NotSignedByOperator.selector, address(purse)));
        escrow.openWithPermit(own, type(uint256).max, signature, signature);
    }

    // ---------------------------------------------------------------- signers

    function test_refuses_unlessBothSigned(uint256 key) public {
        Charge memory charge = _charge(5);
        key = bound(key, 1, ORDER - 1);
        vm.assume(key != agentKey && key != submitterKey);
        (, uint256 guardianKey) = makeAddrAndKey("guardian");
        uint256[5] memory keys = [agentKey, submitterKey, operatorKey, guardianKey, key];
        for (uint256 a = 0; a < keys.length; ++a) {
            for (uint256 s = 0; s < keys.length; ++s) {
                bytes4 answer = a == 0 && s == 1 ? YES : NO;
                _assertAnswers(answer, charge, _signatureBy(charge, keys[a], keys[s]));
            }
        }
    }

    function test_refuses_whenEitherSignatureIsMissing() public {
        Charge memory charge = _charge(5);
        bytes32 digest = _digestOf(charge);
        (bytes memory a, bytes memory s, bytes memory nothing) =
            (_compact(agentKey, digest), _compact(submitterKey, digest), new bytes(64));
        _assertNotPaid(charge, _join(charge, nothing, s, _tail()));
        _assertNotPaid(charge, _join(charge, a, nothing, _tail()));
        _assertNotPaid(charge, _join(charge, nothing, nothing, _tail()));
    }

    function test_refuses_aSubmitterOfAnotherGuardian() public {
        (address other, uint256 otherKey) = makeAddrAndKey("other submitter");
        vm.prank(stranger);
        escrow.setSubmitter(other, true);
        Charge memory charge = _charge(5);
        _assertNotPaid(charge, _signatureBy(charge, agentKey, otherKey));
        vm.prank(guardian);
        escrow.setSubmitter(other, true);
        _assertAnswers(YES, charge, _signatureBy(charge, agentKey, otherKey));
    }

    /// @dev What it signed and is not settled dies with it.
    function test_refuses_aRemovedSubmitter() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        _assertNotPaid(charge, signature);
    }

    /// @dev Junk recovers to zero, and a guardian can allow zero.
    function test_refuses_junk_thoughTheGuardianAllowedZero() public {
        vm.prank(guardian);
        escrow.setSubmitter(address(0), true);
        Charge memory charge = _charge(5);
        bytes memory a = _compact(agentKey, _digestOf(charge));
        _assertNotPaid(charge, _join(charge, a, new bytes(64), _tail()));
        _assertNotPaid(charge, _join(charge, a, abi.encode(keccak256("r"), bytes32(0)), _tail()));
    }

    /// @dev EIP-2: in the compact form there is no high s; its highest bit is the parity.
    function test_refuses_theOtherParity() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        signature[192] ^= 0x80;
        _assertNotPaid(charge, signature);
        signature[192] ^= 0x80;
        signature[256] ^= 0x80;
        _assertNotPaid(charge, signature);
    }

    /// @dev With a guardian of zero the agent's word is enough, and nobody else's instead.
    function test_withoutAGuardian_needsTheAgentAlone() public {
        Terms memory terms_ = _purseTerms();
        terms_.guardian = address(0);
        _start(terms_);
        Charge memory charge = _charge(5);
        bytes memory a = _compact(agentKey, _digestOf(charge));
        bytes memory s = _compact(submitterKey, _digestOf(charge));
        _assertNotPaid(charge, _join(charge, s, s, _tail()));
        _assertNotPaid(charge, _join(charge, new bytes(64), new bytes(64), _tail()));
        _assertAnswers(YES, charge, _join(charge, a, s, _tail()));
        _settleCharge(charge, _join(charge, a, new bytes(64), _tail()));
        assertEq(usdc.balanceOf(payee), 5);
    }

    /// @dev Code does not take a key's word away.
    function test_succeeds_forAnEIP7702Agent() public {
        vm.signAndAttachDelegation(address(new WalletRefusing()), agentKey);
        vm.prank(stranger);
        usdc.approve(stranger, 0); // carries the delegation
        assertGt(agent.code.length, 0);
        _assertYes(_charge(5));
    }

    // ---------------------------------------------------------------- wallets

    function _startWith(address wallet) private {
        Terms memory terms_ = _purseTerms();
        terms_.agent = wallet;
        factory.create(terms_);
        terms_.payees = _pair(_leaf(factory.purseOf(terms_)), _leaf(payee));
        terms = terms_;
        purse = IMandatePurse(factory.purseOf(terms_));
        id = _open(terms_);
        usdc.mint(address(purse), FLOAT);
    }

    function _byWallet(Charge memory charge, bytes memory ofWallet) private view returns (bytes memory) {
        bytes memory s = _compact(submitterKey, _digestOf(charge));
        return _join(charge, new bytes(64), s, bytes.concat(_tail(), ofWallet));
    }

    function test_wallet_succeeds_withItsOwnersSignature() public {
        _startWith(address(new Wallet(agent)));
        Charge memory charge = _charge(5);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, _digestOf(charge));
        bytes memory signature = _byWallet(charge, abi.encodePacked(r, s, v));
        _assertAnswers(NO, charge, _byWallet(charge, ""));
        (v, r, s) = vm.sign(operatorKey, _digestOf(charge));
        _assertAnswers(NO, charge, _byWallet(charge, abi.encodePacked(r, s, v)));
        _settleCharge(charge, signature);
        assertEq(usdc.balanceOf(payee), 5);
    }

    /// @dev Also without a list: the proof's length comes first.
    function test_wallet_succeeds_withoutAList() public {
        Terms memory terms_ = _unlisted();
        terms_.agent = address(new WalletAcceptingAll());
        terms = terms_;
        purse = IMandatePurse(factory.create(terms_));
        id = _open(terms_);
        Charge memory charge = _charge(5);
        bytes memory s = _compact(submitterKey, _digestOf(charge));
        _assertAnswers(YES, charge, _join(charge, new bytes(64), s, hex"00aa"));
        _assertAnswers(NO, charge, _join(charge, new bytes(64), s, hex"00"));
        _assertAnswers(NO, charge, _join(charge, new bytes(64), s, ""));
    }

    /// @dev The wallet gets the digest and exactly what stands behind the proof.
    function test_wallet_isAskedForTheDigest() public {
        address wallet = address(new WalletAcceptingAll());
        _startWith(wallet);
        Charge memory charge = _charge(5);
        bytes memory signature = _byWallet(charge, "what it takes");
        bytes32 digest = _digestOf(charge);
        vm.expectCall(wallet, abi.encodeCall(Wallet.isValidSignature, (digest, "what it takes")), 1);
        assertEq(purse.isValidSignature(digest, signature), YES);
    }

    function test_wallet_refuses_whenItDoesNotAccept() public {
        address[8] memory wallets = [
            address(new WalletRefusing()),
            address(new WalletReverting()),
            address(new WalletSilent()),
            address(new WalletReturningDirt()),
            address(new WalletReturningTooLittle()),
            address(new WalletBurningGas()),
            address(new WalletWriting()),
            address(4) // answers with what it was asked
        ];
        for (uint256 i = 0; i < wallets.length; ++i) {
            _startWith(wallets[i]);
            Charge memory charge = _charge(5);
            _assertAnswers(NO, charge, _byWallet(charge, "any"));
        }
    }

    /// @dev Others pay for it: what a row of a batch gets is enough or not.
    function test_wallet_getsWhatARowGets() public {
        _startWith(address(new WalletThirsty()));
        Charge memory charge = _charge(5);
        _assertAnswers(YES, charge, _byWallet(charge, "any"));
        _startWith(address(new WalletExpensive()));
        charge = _charge(5);
        _assertAnswers(NO, charge, _byWallet(charge, "any"));
        _startWith(address(new WalletBurningGas()));
        charge = _charge(5);
        (bytes memory signature, bytes32 digest) = (_byWallet(charge, "any"), _digestOf(charge));
        uint256 before = gasleft();
        assertEq(purse.isValidSignature(digest, signature), NO);
        assertLt(before - gasleft(), 400_000);
    }

    /// @dev The one answer that is neither yes nor no: with too little gas nobody is asked.
    function test_wallet_isNeverStarved() public {
        _startWith(address(new WalletThirsty()));
        Charge memory charge = _charge(5);
        (bytes memory signature, bytes32 digest) = (_byWallet(charge, "any"), _digestOf(charge));
        uint256 tooLow = 0;
        uint256 yes = 0;
        for (uint256 gas_ = 20_000; gas_ < 420_000; gas_ += 1_000) {
            try purse.isValidSignature{gas: gas_}(digest, signature) returns (bytes4 answer) {
                assertEq(answer, YES);
                ++yes;
            } catch (bytes memory why) {
                if (bytes4(why) == IMandateEscrow.GasTooLow.selector) ++tooLow;
                else assertEq(why.length, 0);
            }
        }
        assertGt(tooLow, 10);
        assertGt(yes, 10);
    }

    // ---------------------------------------------------------------- terms

    function test_refuses_abovePerPayment() public {
        _assertYes(_charge(PER_PAYMENT));
        Charge memory charge = _charge(PER_PAYMENT + 1);
        _assertNotPaid(charge, _signatureOf(charge));
        _assertNo(_charge(type(uint256).max));
        _assertNo(_charge(uint256(1) << 64));
        _assertNo(_charge((uint256(1) << 64) + 1));
    }

    function test_refuses_zero() public {
        Charge memory charge = _charge(0);
        _assertNotPaid(charge, _signatureOf(charge));
    }

    /// @dev Though the terms allow anyone.
    function test_refuses_whenThePayeeIsZeroOrThePurseOrTheEscrowOrTheToken() public {
        _startAsTheyAre(_unlisted());
        address[4] memory bad = [address(0), address(purse), address(escrow), address(usdc)];
        for (uint256 i = 0; i < bad.length; ++i) {
            Charge memory charge = _charge(5);
            charge.to = bad[i];
            bytes32 digest = _digestOf(charge);
            bytes memory signature = _join(charge, _compact(agentKey, digest), _compact(submitterKey, digest), "");
            _assertAnswers(NO, charge, signature);
        }
    }

    function test_refuses_beforeStartAndFromExpiryOn() public {
        Terms memory terms_ = _purseTerms();
        (terms_.start, terms_.expiry) = (NOW + 10, NOW + 20);
        terms_.intent = "timed";
        _start(terms_);
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        uint40[4] memory closed = [NOW, NOW + 9, NOW + 20, NOW + 21];
        for (uint256 i = 0; i < closed.length; ++i) {
            vm.warp(closed[i]);
            _assertNotPaid(charge, signature);
        }
        vm.warp(NOW + 10);
        _assertAnswers(YES, charge, signature);
        vm.warp(NOW + 19);
        _settleCharge(charge, signature);
    }

    function test_refuses_onceTheMandateIsRevoked() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        vm.prank(operator);
        escrow.revoke(terms);
        _assertNotPaid(charge, signature);
    }

    /// @dev A roll ends the purse's mandate; the next one has a purse of its own.
    function test_refuses_onceTheMandateIsRolled() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        _roll();
        _assertNotPaid(charge, signature);
    }

    function test_refuses_beforeTheMandateIsOpen() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "later";
        purse = IMandatePurse(factory.create(terms_));
        terms_.payees = _pair(_leaf(address(purse)), _leaf(payee));
        terms = terms_;
        usdc.mint(address(purse), FLOAT);
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        _assertNotPaid(charge, signature);
        _open(terms_);
        _settleCharge(charge, signature);
    }

    function test_refuses_termsThatWereWithdrawn() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "withdrawn";
        purse = IMandatePurse(factory.create(terms_));
        terms_.payees = _pair(_leaf(address(purse)), _leaf(payee));
        terms = terms_;
        usdc.mint(address(purse), FLOAT);
        vm.prank(operator);
        escrow.revoke(terms_);
        Charge memory charge = _charge(5);
        _assertNotPaid(charge, _signatureOf(charge));
    }

    // ---------------------------------------------------------------- payees

    function test_refuses_aPayeeWhoIsNotListed(address to) public {
        vm.assume(to != payee);
        Charge memory charge = _charge(5);
        charge.to = to;
        _assertNo(charge);
    }

    /// @dev Zero for "any payee", or a root that one would like better: those are other terms, which nobody opened.
    function test_refuses_anotherRoot(bytes32 root) public {
        vm.assume(root != terms.payees);
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        bytes32[3] memory roots = [bytes32(0), _leaf(payee), root];
        for (uint256 i = 0; i < roots.length; ++i) {
            bytes memory other = bytes.concat(_to(signature, 288), roots[i]);
            _assertNotPaid(charge, other);
            _assertNotPaid(charge, bytes.concat(other, hex"00"));
            _assertNotPaid(charge, bytes.concat(other, _tail()));
        }
    }

    function test_refuses_anotherProof(bytes32 junk) public {
        vm.assume(junk != _leaf(address(purse)));
        Charge memory charge = _charge(5);
        bytes memory signature = _to(_signatureOf(charge), 320);
        _assertNotPaid(charge, signature);
        _assertNotPaid(charge, bytes.concat(signature, hex"00"));
        _assertNotPaid(charge, bytes.concat(signature, hex"01", junk));
        _assertNotPaid(charge, bytes.concat(signature, hex"01", _leaf(payee)));
        _assertNotPaid(charge, bytes.concat(signature, hex"02", _leaf(address(purse)), junk));
    }

    /// @dev One that says that it has more words than there are.
    function test_refuses_aProofOfImpossibleLength(uint8 length) public {
        length = uint8(bound(length, 2, 255));
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        signature[320] = bytes1(length);
        _assertNotPaid(charge, signature);
        _assertNotPaid(charge, bytes.concat(_to(signature, 320), bytes1(length)));
        bytes memory short = bytes.concat(signature, new bytes(32 * (uint256(length) - 1) - 1));
        _assertNotPaid(charge, short);
    }

    /// @dev Lengths count even where the list is not looked at.
    function test_refuses_aProofOfImpossibleLength_withoutAList() public {
        _startAsTheyAre(_unlisted());
        Charge memory charge = _charge(5);
        bytes32 digest = _digestOf(charge);
        (bytes memory a, bytes memory s) = (_compact(agentKey, digest), _compact(submitterKey, digest));
        _assertAnswers(NO, charge, _join(charge, a, s, hex"01"));
        _assertAnswers(NO, charge, _join(charge, a, s, abi.encodePacked(uint8(1), bytes31(0))));
        _assertAnswers(YES, charge, _join(charge, a, s, abi.encodePacked(uint8(1), bytes32(0))));
    }

    // ---------------------------------------------------------------- bytes

    /// @dev P3: every single bit counts.
    function test_refuses_whenABitIsFlipped() public view {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        bytes32 digest = _digestOf(charge);
        assertEq(signature.length, 353);
        for (uint256 bit = 0; bit < 8 * 353; ++bit) {
            signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
            assertEq(purse.isValidSignature(digest, signature), NO);
            signature[bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        }
        assertEq(purse.isValidSignature(digest, signature), YES);
    }

    /// @dev P3: and so does every byte.
    function test_refuses_whenItIsCut() public view {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        bytes32 digest = _digestOf(charge);
        for (uint256 length = 0; length < 353; ++length) {
            assertEq(purse.isValidSignature(digest, _to(signature, length)), NO);
        }
    }

    /// @dev P3.
    function test_refuses_anyBytes(bytes32 digest, bytes calldata junk, uint256 kept) public view {
        assertEq(purse.isValidSignature(digest, junk), NO);
        Charge memory charge = _charge(5);
        bytes memory head = _to(_signatureOf(charge), bound(kept, 0, 287));
        _assertAnswers(NO, charge, bytes.concat(head, junk));
    }

    /// @dev P3: a payee that is none, of which both signed the very bytes.
    function test_refuses_aPayeeWithDirtyBits(uint96 dirt) public view {
        vm.assume(dirt != 0);
        Charge memory charge = _charge(5);
        bytes memory words = abi.encode(
            uint256(uint160(payee)) | uint256(dirt) << 160,
            charge.value,
            charge.validAfter,
            charge.validBefore,
            charge.nonce
        );
        bytes32 structHash =
            keccak256(bytes.concat(abi.encode(usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), address(purse)), words));
        bytes32 digest = _digest(usdc.DOMAIN_SEPARATOR(), structHash);
        bytes memory signature =
            bytes.concat(words, _compact(agentKey, digest), _compact(submitterKey, digest), terms.payees, _tail());
        assertEq(purse.isValidSignature(digest, signature), NO);
    }

    /// @dev For a key that signed, what follows means nothing: no more than a wrapper's suffix (ERC-6492).
    function test_succeeds_withBytesBehindAKeysSignature(bytes calldata more) public {
        Charge memory charge = _charge(5);
        _settleCharge(charge, bytes.concat(_signatureOf(charge), more));
    }

    /// @dev The shared code is no purse: it has no terms, and answers like a purse of a mandate that nobody opened.
    function test_refuses_atTheImplementation() public {
        Charge memory charge = _charge(5);
        purse = IMandatePurse(factory.implementation());
        _assertNotPaid(charge, _signatureOf(charge));
        _assertAnswers(NO, charge, "");
    }

    function _unlisted() private view returns (Terms memory terms_) {
        terms_ = _purseTerms();
        terms_.intent = "unlisted";
    }

    function _to(bytes memory all, uint256 end) private pure returns (bytes memory part) {
        part = new bytes(end);
        for (uint256 i = 0; i < end; ++i) {
            part[i] = all[i];
        }
    }

    function _from(bytes memory all, uint256 begin) private pure returns (bytes memory part) {
        part = new bytes(all.length - begin);
        for (uint256 i = begin; i < all.length; ++i) {
            part[i - begin] = all[i];
        }
    }
}
