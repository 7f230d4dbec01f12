package redisledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// Hold implements billing.Ledger, in one round trip. While Redis fails, it answers
// from what this process knew last, less what it has settled and set aside itself;
// it fails if it never knew the user, or a subscription that no config declares,
// and with ErrUnwritable if there is no spool that could keep the record.
func (l *Ledger) Hold(ctx context.Context, claim *billing.Claim) (billing.Payer, error) {
	payer, err := l.holdOrFail(ctx, claim)
	return billing.Payer{Billing: payer, UserNumber: 1}, err
}

func (l *Ledger) holdOrFail(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	if l.closed.Load() {
		return "", billing.ErrClosed
	}
	if payer, err = l.hold(ctx, claim); err == nil {
		return payer, nil
	}
	var refusal *billing.Refusal
	if errors.As(err, &refusal) {
		return "", refusal
	}
	return "", fmt.Errorf("setting %s of %q aside: %w", claim.Amount, claim.User, err)
}

func (l *Ledger) hold(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	if err := cmp.Or(ctx.Err(), checkClaim(claim)); err != nil {
		return "", err
	}
	if before := l.holds.find(claim.ID); before != nil {
		if !before.asked {
			return before.payer, nil
		}
		l.Release(ctx, claim.ID) // somebody asks for it just now
	}
	if l.down.Load() {
		return l.holdHere(claim, errDown, nil)
	}
	for range mostAsks {
		if payer, err = l.askHold(ctx, claim); err != errOvertaken {
			return payer, err
		}
	}
	return "", &billing.Refusal{Lack: billing.LackBalance, Held: true}
}

// mostAsks is how often Redis is asked about a claim when its answers are overtaken:
// then too much happens at once to tell, which passes.
const mostAsks = 3

var (
	// errOvertaken: Redis refused a claim for the sake of what it was told to wait, and
	// which it had by then; or it met one without knowing what was set aside here
	// meanwhile.
	errOvertaken = errors.New("what Redis was told was overtaken")
	// errGivenUp: the claim was released while Redis was asked.
	errGivenUp = errors.New("the claim was given up meanwhile")
)

func (l *Ledger) askHold(ctx context.Context, claim *billing.Claim) (payer string, err error) {
	asked := l.cache.ask()
	h := l.holds.ask(claim)
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	keys, args := l.holdArguments(claim, h, redispipe.Guard{})
	reply, err := redispipe.Run(bounded, l.client, holdScript, keys, args...)
	return l.answerHold(ctx, claim, h, asked, reply, err)
}

func checkClaim(claim *billing.Claim) error {
	switch {
	case claim.ID == "":
		return errors.New("the claim has no id")
	case claim.Amount < 0 || claim.Amount > largestAmount || claim.Least > largestAmount:
		return fmt.Errorf("the claim is out of range, the limits are 0 and %s", largestAmount)
	}
	return nil
}

// HoldAhead puts a claim to Redis in somebody else's round trip: that of the next
// redispipe.Exec under the context that it returns. Where that names a guard,
// nothing is set aside unless the guard is there, so that a request which has to
// wait in line for its slot keeps no money from others meanwhile.
//
// Once Exec has returned, the function tells what came of it, as Hold does; answered
// is false, and nothing is set aside, if nobody took the claim along or it came to
// nothing for another reason than money. A request that ends without having asked
// needs Release as any other.
func (l *Ledger) HoldAhead(ctx context.Context, claim *billing.Claim) (context.Context, func() (payer billing.Payer, answered bool, err error)) {
	if l.closed.Load() || l.down.Load() || checkClaim(claim) != nil || l.holds.find(claim.ID) != nil {
		return ctx, func() (billing.Payer, bool, error) { return billing.Payer{}, false, nil }
	}
	kept := *claim
	if claim.Terms != nil {
		terms := *claim.Terms
		kept.Terms = &terms
	}
	var payer string
	var err error
	answered, over := false, false
	carrying := redispipe.WithRider(ctx, func(pipe redis.Pipeliner, guard redispipe.Guard) func() {
		if over { // who asks again may do so under the context that carries this
			return nil
		}
		asked := l.cache.ask()
		h := l.holds.ask(&kept)
		keys, args := l.holdArguments(&kept, h, guard)
		cmd := holdScript.EvalSha(ctx, pipe, keys, args...)
		return func() { payer, answered, err = l.answerAhead(ctx, &kept, h, asked, cmd) }
	})
	return carrying, func() (billing.Payer, bool, error) {
		over = true
		return billing.Payer{Billing: payer, UserNumber: 1}, answered, err
	}
}

// answerAhead takes in the answer to a claim that travelled with something else.
func (l *Ledger) answerAhead(ctx context.Context, c *billing.Claim, h *hold, asked question, cmd *redis.Cmd) (payer string, answered bool, err error) {
	reply, err := cmd.Result()
	answer, _ := reply.([]any)
	switch {
	case redis.HasErrorPrefix(err, "NOSCRIPT") || len(answer) > 0 && answer[0] == "later":
		l.holds.end(c.ID)
		return "", false, nil
	case l.note(ctx, err) != nil:
		l.Release(ctx, c.ID) // it may have been met
		return "", false, nil
	}
	payer, err = l.answerHold(ctx, c, h, asked, reply, nil)
	var refusal *billing.Refusal
	switch {
	case err == errOvertaken:
		return "", false, nil
	case err != nil && !errors.As(err, &refusal):
		err = fmt.Errorf("setting %s of %q aside: %w", c.Amount, c.User, err)
	}
	return payer, true, err
}

// holdArguments are hold.lua's.
func (l *Ledger) holdArguments(c *billing.Claim, h *hold, guard redispipe.Guard) (keys []string, args []any) {
	user, key, subscription := userPurse(c.User), keyPurse(c.KeyID), subscriptionPurse(c.User, "")
	pays, limits := "balance", billing.Limits{}
	if terms := c.Terms; terms != nil {
		subscription, limits = subscriptionPurse(c.User, terms.Group), terms.Limits
		switch {
		case !terms.Declared:
			pays = "subscription"
		case isOver(terms.Until, c.Time):
			pays = "expired"
		default:
			pays = "declared"
		}
	}
	if guard.Field == "" {
		guard.Key = l.key(user) // which lies in the same slot
	}
	keys = []string{
		guard.Key, l.key(user), l.key(key), l.key(subscription), l.holdsKey(user), l.holdsKey(key), l.holdsKey(subscription),
	}
	args = []any{
		guard.Field, h.member(), int64(c.Amount), int64(max(c.Least, 0)), holdTTL.Milliseconds(), c.Time.Unix(),
		billing.UnixNano(c.Time), pays,
	}
	for _, limit := range limits {
		args = append(args, int64(max(limit, 0)))
	}
	h.waits = l.waits(h, c)
	return keys, append(args, int64(h.waits.balance), int64(h.waits.key), int64(h.waits.subscription))
}

// answerHold takes in hold.lua's answer.
func (l *Ledger) answerHold(ctx context.Context, c *billing.Claim, h *hold, asked question, reply any, err error) (string, error) {
	if l.note(ctx, err) != nil {
		if ctx.Err() != nil || isRefusal(err) {
			l.Release(ctx, c.ID) // it may have been met
			return "", err
		}
		return l.holdHere(c, err, h)
	}
	answer, _ := reply.([]any)
	if len(answer) == 1 && answer[0] == "stranger" {
		l.holds.end(c.ID)
		l.cache.forgetUser(c.User)
		return "", billing.ErrUnknownUser
	}
	s, err := parseStanding(answer, c)
	if err != nil {
		l.Release(ctx, c.ID)
		return "", err
	}
	l.cache.learnStanding(c, asked, &s)
	if answer[0] == "held" {
		payer, _ := answer[1].(string)
		purses := s.purses(c, payer)
		err := l.holds.met(h, c, s, payer, purses)
		if err != nil {
			_ = l.endHolds(context.WithoutCancel(ctx), []hold{{id: c.ID, number: h.number, amount: c.Amount, purses: purses}})
		}
		if err == errOvertaken {
			return "", err
		}
		return payer, nil
	}
	l.holds.end(c.ID)
	s.lessen(l.waits(h, c))
	if _, refusal := s.judge(c); refusal != nil {
		return "", refusal
	}
	return "", errOvertaken
}

// waits is what Redis may not know of while it is asked for a hold: records in the
// spool, and what was set aside here. A record comes to the spool before its hold
// ends, so it is looked for last.
func (l *Ledger) waits(h *hold, c *billing.Claim) waits {
	w := l.holds.untoldOf(h, c)
	w.add(l.cache.waits(c))
	return w
}

// parseStanding reads what hold.lua gives of the user, the key and the
// subscription.
func parseStanding(answer []any, c *billing.Claim) (s standing, err error) {
	if len(answer) != 5 {
		return s, fmt.Errorf("an unknown answer of Redis for a claim: %v", answer)
	}
	if s.user, _, err = parseTold(answer[2]); err != nil {
		return s, err
	}
	if s.key, err = parseLimitedKey(answer[3]); err != nil {
		return s, err
	}
	if c.Terms != nil {
		s.subscription, err = parseSubscription(answer[4])
	}
	return s, err
}

// holdHere meets a claim, or does not, by what this process knows; why says why
// Redis does not do it, or is not known to: asked is what it may have met, or nil.
func (l *Ledger) holdHere(c *billing.Claim, why error, asked *hold) (_ string, err error) {
	l.holds.end(c.ID)
	defer func() {
		if err != nil && asked != nil {
			l.holds.owe(*asked) // Redis may have met what is refused here
		}
	}()
	if l.spool == nil {
		return "", fmt.Errorf("%w: asking Redis: %w, and there is no spool", billing.ErrUnwritable, why)
	}
	if err := l.spool.check(); err != nil {
		return "", fmt.Errorf("%w: asking Redis: %w; the spool %s: %w", billing.ErrUnwritable, why, l.spool.dir, err)
	}
	payer, refusal, isKnown := l.holds.meetHere(c, l.cache, asked)
	switch {
	case !isKnown:
		return "", fmt.Errorf("asking Redis: %w", why)
	case refusal != nil:
		return "", refusal
	}
	l.renewNow.Store(true)
	return payer, nil
}

// meetHere meets a claim by what is known, with what this process has set aside, or
// may be about to. A record goes to the spool before its hold ends, so that one of
// them counts.
func (hs *holds) meetHere(c *billing.Claim, known *cache, asked *hold) (payer string, refusal *billing.Refusal, isKnown bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	s, isKnown := known.standing(c)
	if !isKnown {
		return "", nil, false
	}
	possible := possiblePurses(c)
	held := func(p purseName) billing.USD { return hs.sums[p].Plus(hs.pending[p]) }
	s.user.Held = s.user.Held.Plus(held(userPurse(c.User)))
	s.subscription.held = s.subscription.held.Plus(held(possible[0]))
	if s.key != nil {
		s.key.held = s.key.held.Plus(held(possible[1]))
	}
	payer, refusal = s.judge(c)
	if refusal == nil {
		h := &hold{id: c.ID, amount: c.Amount}
		purses := s.purses(c, payer)
		if asked != nil { // Redis may know of more
			h.number, h.shared, h.anew = asked.number, true, true
			purses = possible
		} else {
			hs.number++
			h.number = hs.number
		}
		hs.keep(h, payer, purses)
		for _, p := range purses {
			if hs.pending[p] > 0 {
				hs.metHere[p] = hs.metHere[p].Plus(h.amount)
			}
		}
	}
	return payer, refusal, true
}

// Release implements billing.Ledger, in one round trip, or none if nothing is set
// aside. Where Redis does not hear of it, it will, or it expires. The context's
// riders (package redispipe) travel along.
func (l *Ledger) Release(ctx context.Context, id string) {
	h := l.holds.end(id)
	if h == nil || l.closed.Load() || !h.shared && !h.asked {
		return
	}
	if h.asked {
		l.holds.owe(*h) // or Redis hears of the claim after it hears of this
	}
	_ = l.endHolds(context.WithoutCancel(ctx), []hold{*h})
}
