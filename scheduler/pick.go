package scheduler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// Scheduler decides which account serves a request. Safe for concurrent use.
type Scheduler struct {
	settings Settings
	catalog  *catalog
	state    State
	leases   *Leases
	logger   *slog.Logger

	successes successes
}

// New returns a Scheduler over the State of leases, which outlives it: a new
// config makes a new Scheduler with the same leases. The settings must not
// change from here on.
//
// Errors: names defined twice, groups that name accounts that don't exist.
func New(settings Settings, leases *Leases, logger *slog.Logger) (*Scheduler, error) {
	catalog, err := newCatalog(&settings)
	if err != nil {
		return nil, err
	}
	return &Scheduler{settings: settings, catalog: catalog, state: leases.state, leases: leases, logger: logger}, nil
}

// errWaitedOut ends a wait in line. It stays inside.
var errWaitedOut = errors.New("the wait in line timed out")

// leaseNumber makes lease ids unique in the process; request ids are unique
// over all.
var leaseNumber atomic.Uint64

func leaseID(request string) string {
	return request + "#" + strconv.FormatUint(leaseNumber.Add(1), 36)
}

// Admit takes a user's slot, waiting for it at most UserWaitTimeout, with at
// most concurrency + UserExtraWaiting waiting. A concurrency of 0 is no limit.
// along is Ask.Along.
//
// Errors: ErrFull, context.Cause(ctx), or the State's. With an error nothing is
// held.
func (s *Scheduler) Admit(ctx context.Context, request, user string, concurrency int, along roundtrip.Batch) (*Lease, error) {
	place := UserPlace(user)
	ask := &Ask{
		TTL:        leaseTTL,
		Candidates: &Candidates{Pool: place, Places: []Place{{Name: place, Limit: concurrency}}},
		User:       user,
		MaxWaiting: concurrency + s.settings.UserExtraWaiting,
		Along:      along,
	}
	lease := &Lease{}
	answer, err := s.acquire(ctx, request, ask, lease)
	if err == nil && answer.Kind == Queued {
		answer, err = s.await(ctx, ask, s.settings.UserWaitTimeout, lease)
	}
	switch {
	case errors.Is(err, errWaitedOut):
		return nil, fmt.Errorf("waited %v for one of the user's %d slots: %w", s.settings.UserWaitTimeout, concurrency, ErrFull)
	case err != nil:
		return nil, err
	case answer.Kind == Full:
		return nil, fmt.Errorf("%d requests of the user are waiting already: %w", ask.MaxWaiting, ErrFull)
	case answer.Kind == Out:
		return nil, &OutError{Until: answer.Until}
	}
	return lease, nil
}

// Pick chooses the account for a request and takes a slot there, waiting as
// Settings allow.
//
// Errors: ErrNoAccount, ErrFull, *OutError, context.Cause(ctx), or the State's.
// With an error nothing is held.
func (s *Scheduler) Pick(ctx context.Context, d Demand) (*Lease, error) {
	candidates := s.catalog.candidates(d.Group, d.Force, d.Model)
	if candidates == nil {
		return nil, fmt.Errorf("model %.100q in group %q: %w", d.Model, d.Group, ErrNoAccount)
	}
	ask := &Ask{
		TTL:              leaseTTL,
		Candidates:       candidates,
		Model:            d.Model,
		Fast:             d.Fast,
		Endpoint:         d.Endpoint,
		User:             d.User,
		Session:          sessionKey(&d, d.User),
		BindTTL:          s.settings.StickyTTL,
		IgnoreLoad:       !s.settings.LoadAware,
		StickyMaxWaiting: s.settings.StickyMaxWaiting,
		MaxWaiting:       s.settings.FallbackMaxWaiting,
	}
	if d.Shared {
		ask.Session, ask.Memory = sessionKey(&d, ""), ask.Session
	}
	for _, name := range d.Exclude {
		ask.Exclude = append(ask.Exclude, AccountPlace(name))
	}
	lease := &Lease{}
	answer, err := s.acquire(ctx, d.Request, ask, lease)
	if err == nil && answer.Kind == Queued && answer.Sticky {
		answer, err = s.await(ctx, ask, s.settings.StickyWaitTimeout, lease)
		if errors.Is(err, errWaitedOut) || err == nil && answer.Kind == Out {
			ask.Unstick = true
			answer, err = s.acquire(ctx, d.Request, ask, lease)
		}
	}
	if err == nil && answer.Kind == Queued {
		answer, err = s.await(ctx, ask, s.settings.FallbackWaitTimeout, lease)
	}
	switch {
	case errors.Is(err, errWaitedOut):
		return nil, fmt.Errorf("waited %v for a slot: %w", s.settings.FallbackWaitTimeout, ErrFull)
	case err != nil:
		return nil, err
	case answer.Kind == Full:
		return nil, fmt.Errorf("%d requests are waiting for each account already: %w", ask.MaxWaiting, ErrFull)
	case answer.Kind == Out:
		return nil, &OutError{Until: answer.Until}
	}
	lease.Account = s.catalog.byPlace[answer.Place]
	lease.Moved, lease.Marks = answer.Moved, answer.Marks
	lease.Own, lease.Last, lease.Trial = answer.Own, answer.Last, answer.Trial
	return lease, nil
}

// PickForQuestion takes a slot at an account, whatever its state, for a
// question of the gateway's own; it waits for it at most for that long.
//
// Errors: ErrFull, context.Cause(ctx), or the State's. With an error nothing is
// held.
func (s *Scheduler) PickForQuestion(ctx context.Context, request string, account *upstream.Account, wait time.Duration) (*Lease, error) {
	place := AccountPlace(account.Name)
	ask := &Ask{
		TTL:        leaseTTL,
		Candidates: &Candidates{Pool: place, Places: []Place{{Name: place, Limit: account.Concurrency}}},
		Question:   true,
		MaxWaiting: math.MaxInt32,
	}
	lease := &Lease{Account: account}
	answer, err := s.acquire(ctx, request, ask, lease)
	if err == nil && answer.Kind == Queued {
		answer, err = s.await(ctx, ask, wait, lease)
	}
	switch {
	case errors.Is(err, errWaitedOut), err == nil && answer.Kind != Granted:
		return nil, fmt.Errorf("waited %v for a slot of account %s: %w", wait, account.Name, ErrFull)
	case err != nil:
		return nil, err
	}
	return lease, nil
}

// acquire asks for a slot under a new lease id; a granted one is kept alive in
// lease from here on.
func (s *Scheduler) acquire(ctx context.Context, request string, ask *Ask, lease *Lease) (Answer, error) {
	ask.Lease = leaseID(request)
	asked := time.Now()
	answer, err := s.state.Acquire(ctx, ask)
	switch {
	case err != nil:
		s.leases.giveBack(ask.Lease)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	case answer.Kind == Granted:
		s.leases.keep(lease, ask.Lease, asked)
	}
	return answer, err
}

// await waits in line for at most limit, then the error is errWaitedOut.
func (s *Scheduler) await(ctx context.Context, ask *Ask, limit time.Duration, lease *Lease) (Answer, error) {
	began := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, errWaitedOut)
	defer cancel()
	answer, err := s.state.Await(bounded, ask.Lease)
	lease.Waited += time.Since(began)
	switch {
	case err != nil:
		s.leases.giveBack(ask.Lease)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	case answer.Kind == Granted:
		s.leases.keep(lease, ask.Lease, time.Now())
	}
	return answer, err
}

// MarkSession remembers something of the demand's session, for as long as it is
// bound; without a session it does nothing.
func (s *Scheduler) MarkSession(ctx context.Context, d Demand, marks Marks) error {
	key := sessionKey(&d, d.User)
	if key == "" {
		return nil
	}
	return s.state.Mark(ctx, key, marks, s.settings.StickyTTL)
}

// sessionKey scopes the session by group, forced platform and user; "" = all users.
func sessionKey(d *Demand, user string) string {
	session := d.Session
	if session == "" {
		return ""
	}
	if len(session) > 100 { // a client's words
		sum := sha256.Sum256([]byte(session))
		session = hex.EncodeToString(sum[:16])
	}
	return d.Group + "/" + string(d.Force) + "/" + user + "/" + session
}

// Serves reports whether any account of the group is configured to serve the
// model, whatever its state.
func (s *Scheduler) Serves(group string, force upstream.Platform, model string) bool {
	return s.catalog.candidates(group, force, model) != nil
}

// Models lists the exact model names of the group's accounts, sorted; empty if
// they name none. The caller must not change the list.
func (s *Scheduler) Models(group string, force upstream.Platform) []string {
	if r := s.catalog.members(group, force); r != nil {
		return r.models
	}
	return nil
}

// HoldsBearer reports whether the group has an oauth or setup_token account.
func (s *Scheduler) HoldsBearer(group string, force upstream.Platform) bool {
	r := s.catalog.members(group, force)
	return r != nil && r.bearer
}
