package redisstate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/internal/redislink"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// defineEvery is how often Redis is told of a set again, which forgets those
// that nobody named for a day.
const defineEvery = time.Hour

// Acquire implements scheduler.State.
func (s *State) Acquire(ctx context.Context, ask *scheduler.Ask) (scheduler.Answer, error) {
	if len(ask.Candidates.Places) == 0 {
		return scheduler.Answer{}, errors.New("acquiring slot: the set of candidates is empty")
	}
	if s.knows(ask.Lease) {
		return scheduler.Answer{}, fmt.Errorf("acquiring slot: lease %q is in use already", ask.Lease)
	}
	sent := s.now()
	answer, epoch, err := s.ask(ctx, ask)
	if err == nil && answer.Kind == scheduler.Queued {
		s.wait(ask, sent, epoch)
	}
	return answer, err
}

// knows reports whether a lease is held, or in line.
func (s *State) knows(lease string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[lease] != nil || s.waiters[lease] != nil
}

// ask asks the State in force, and tells which one that was. What is granted is
// held from here on.
func (s *State) ask(ctx context.Context, ask *scheduler.Ask) (answer scheduler.Answer, epoch int, err error) {
	along := ask.Along
	err = s.inForce(func(local scheduler.State) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sent := s.now()
		epoch = s.epoch
		if local == nil {
			answer, err = s.askRedis(ctx, ask, along)
			along = nil
		} else {
			shared := *ask
			shared.Candidates = s.share(ask.Candidates)
			answer, err = local.Acquire(ctx, &shared)
		}
		if err == nil && answer.Kind == scheduler.Granted {
			s.hold(ask.Lease, answer.Place, ask.TTL, sent)
			s.saw(ask, answer.Place)
		}
		return err
	})
	return answer, epoch, err
}

func (s *State) hold(lease, place string, ttl time.Duration, from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[lease] = &holding{place: place, until: from.Add(ttl)}
}

func (s *State) askRedis(ctx context.Context, ask *scheduler.Ask, along roundtrip.Batch) (scheduler.Answer, error) {
	set, err := s.set(ask.Candidates)
	if err != nil {
		return scheduler.Answer{}, err
	}
	define := s.due(set)
	granted := redislink.Guard{Key: s.prefix + "held", Field: ask.Lease}
	// An unknown node joins, an unknown set is told, an expired lease
	// ended: once each.
	for range 5 {
		joins := s.joins.Load()
		reply, err := s.link.RunAlong(ctx, granted, along, acquireScript, s.keys, s.args(s.acquireArgs(ask, set, define))...)
		if err != nil {
			return scheduler.Answer{}, err
		}
		along = nil
		r := list(reply)
		switch text(r, 0) {
		case "unknown node":
			if err := s.joinAfter(ctx, joins); err != nil {
				return scheduler.Answer{}, err
			}
		case "set":
			define = true
		case "granted":
			return scheduler.Answer{
				Kind: scheduler.Granted, Place: text(r, 1), Moved: integer(r, 2) == 1, Marks: scheduler.Marks(integer(r, 3)),
				Own: integer(r, 4) == 1, Last: integer(r, 5) == 1, Trial: integer(r, 6) == 1,
			}, nil
		case "queued":
			if integer(r, 2) == 1 {
				return scheduler.Answer{Kind: scheduler.Queued, Place: text(r, 1), Sticky: true}, nil
			}
			return scheduler.Answer{Kind: scheduler.Queued}, nil
		case "expired": // served in line, which nobody here heard in time
			if _, err := s.run(ctx, releaseScript, ask.Lease); err != nil {
				return scheduler.Answer{}, err
			}
		case "used": // this same call, whose first answer was lost
			if place := text(r, 1); place != "" {
				return scheduler.Answer{Kind: scheduler.Granted, Place: place}, nil
			}
			return scheduler.Answer{Kind: scheduler.Queued}, nil
		case "full":
			return scheduler.Answer{Kind: scheduler.Full}, nil
		case "out":
			return scheduler.Answer{Kind: scheduler.Out, Until: instant(text(r, 1))}, nil
		}
	}
	return scheduler.Answer{}, fmt.Errorf("%w: acquiring slot: Redis forgets this node as soon as it joins", scheduler.ErrUnavailable)
}

// instant reads nanoseconds since 1970; "" is the zero time.
func instant(nanoseconds string) time.Time {
	n, err := strconv.ParseInt(nanoseconds, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func (s *State) acquireArgs(ask *scheduler.Ask, set *set, define bool) []any {
	definition := ""
	if define || set.id == "" {
		definition = set.definition
	}
	args := make([]any, 0, 19+len(ask.Exclude))
	args = append(args, s.options.Node, ask.Lease, milliseconds(ask.TTL), set.id, definition,
		ask.Candidates.Pool, ask.User, ask.Model, flag(ask.Fast), ask.Session, milliseconds(ask.BindTTL),
		flag(ask.Unstick), flag(ask.IgnoreLoad), ask.StickyMaxWaiting, ask.MaxWaiting, s.seen(ask),
		string(ask.Endpoint), flag(ask.Question), ask.Memory)
	for _, name := range ask.Exclude {
		args = append(args, name)
	}
	return args
}

// set is a Candidates as the scripts know it.
type set struct {
	// id is a digest of the definition; "" for a set of one, which is sent along
	// each time.
	id         string
	definition string // JSON
}

// cacheKey finds a set in Candidates.Cache; it is the same for all States.
type cacheKey struct{}

func (s *State) set(c *scheduler.Candidates) (*set, error) {
	if len(c.Places) > 1 {
		if known, ok := c.Cache.Load(cacheKey{}); ok {
			return known.(*set), nil
		}
	}
	definition := struct {
		Names      []string        `json:"names"`
		Limits     []int           `json:"limits"`
		Priorities []int           `json:"priorities"`
		First      map[string]bool `json:"first,omitempty"`
		Pool       string          `json:"pool"`
	}{Pool: c.Pool}
	for i, p := range c.Places {
		definition.Names = append(definition.Names, p.Name)
		definition.Limits = append(definition.Limits, p.Limit)
		definition.Priorities = append(definition.Priorities, p.Priority)
		if p.UnusedFirst {
			if definition.First == nil {
				definition.First = map[string]bool{}
			}
			definition.First[strconv.Itoa(i+1)] = true // Lua counts from 1
		}
	}
	text, err := json.Marshal(&definition)
	if err != nil {
		return nil, fmt.Errorf("acquiring slot: %w", err)
	}
	made := &set{definition: string(text)}
	if len(c.Places) > 1 {
		sum := sha256.Sum256(text)
		made.id = hex.EncodeToString(sum[:16])
		c.Cache.Store(cacheKey{}, made)
	}
	return made, nil
}

// due reports whether Redis should be told of a set.
func (s *State) due(set *set) bool {
	if set.id == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if told, ok := s.defined[set.id]; ok && now.Sub(told) < defineEvery {
		return false
	}
	for id, told := range s.defined { // those of configs that are gone
		if now.Sub(told) > 2*defineEvery {
			delete(s.defined, id)
		}
	}
	s.defined[set.id] = now
	return true
}

// Release implements scheduler.State.
func (s *State) Release(ctx context.Context, leases ...string) error {
	s.forget(leases)
	err := s.inForce(func(local scheduler.State) error {
		if local != nil {
			s.owe(leases) // Redis may know of them from before
			return local.Release(ctx, leases...)
		}
		_, err := s.run(ctx, releaseScript, anys(leases)...)
		return err
	})
	if errors.Is(err, scheduler.ErrUnavailable) {
		s.owe(leases)
		return nil
	}
	return err
}

// ReleaseAlong implements scheduler.State.
func (s *State) ReleaseAlong(leases ...string) (along roundtrip.Batch, done func(context.Context)) {
	s.forget(leases)
	var cmd *redis.Cmd
	release := redislink.Operation(func(pipe redis.Pipeliner, _ redislink.Guard) func() {
		cmd = releaseScript.EvalSha(context.Background(), pipe, s.keys, s.args(anys(leases))...)
		return nil
	})
	s.gate.RLock()
	if s.local == nil {
		along = roundtrip.Batch{release}
	}
	s.gate.RUnlock()
	return along, func(ctx context.Context) {
		if cmd == nil || cmd.Err() != nil {
			_ = s.Release(ctx, leases...) // it is tried again where it fails
		}
	}
}

func (s *State) forget(leases []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.forgetReleases(now)
	for _, lease := range leases {
		if len(s.released) < maxUnreleased {
			s.released = append(s.released, release{lease, now})
		}
		delete(s.held, lease)
		if w := s.waiters[lease]; w != nil {
			delete(s.waiters, lease)
			w.end(scheduler.Answer{}, errReleased)
		}
	}
}

const (
	// maxUnreleased bounds what is remembered of releases; leases beyond it expire.
	maxUnreleased = 100_000
	// rememberedFor is how long a release is remembered that Redis has acknowledged.
	// A restart loses two seconds of them at most (appendfsync everysec), a failover
	// what the replica had not received.
	rememberedFor = 10 * time.Second
)

// forgetReleases forgets those of long ago. s.mu is held.
func (s *State) forgetReleases(now time.Time) {
	old := 0
	for old < len(s.released) && now.Sub(s.released[old].at) > rememberedFor {
		old++
	}
	if s.released = s.released[old:]; len(s.released) == 0 {
		s.released = nil
	}
}

// owe remembers releases that Redis has yet to hear of.
func (s *State) owe(leases []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspect = s.joined // the next heartbeat tells, if no Regain does
	for _, lease := range leases {
		if len(s.unreleased) < maxUnreleased {
			s.unreleased[lease] = struct{}{}
		}
	}
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}

// Renew implements scheduler.State. While Redis is out of reach nobody is given
// slots by it, so a holder that keeps trying keeps its own; one that was frozen
// for longer than the TTL has lost them.
func (s *State) Renew(ctx context.Context, leases []string, ttl time.Duration) (lost []string, err error) {
	err = s.inForce(func(local scheduler.State) error {
		sent := s.now()
		var kept []string
		kept, lost = s.rightful(leases, sent)
		if local != nil {
			gone, err := local.Renew(ctx, kept, ttl)
			lost = append(lost, gone...)
			s.extend(kept, sent.Add(ttl))
			return err
		}
		s.joining.Lock() // a join says until when leases are held
		defer s.joining.Unlock()
		args := []any{milliseconds(ttl)}
		for _, lease := range kept {
			args = append(args, lease, s.placeOf(lease))
		}
		_, err := s.run(ctx, renewScript, args...)
		s.extend(kept, sent.Add(ttl))
		if err != nil {
			return err
		}
		return s.releaseAgain(ctx, kept)
	})
	if errors.Is(err, scheduler.ErrUnavailable) {
		var kept []string
		kept, lost = s.rightful(leases, s.now())
		s.extend(kept, s.now().Add(ttl))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lease := range lost {
		delete(s.held, lease)
	}
	return lost, err
}

func (s *State) extend(leases []string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lease := range leases {
		if h := s.held[lease]; h != nil {
			h.until = until
		}
	}
}

// releaseAgain releases those of the leases that were released while Redis was
// told that they are held, and may have taken them again.
func (s *State) releaseAgain(ctx context.Context, told []string) error {
	var gone []any
	s.mu.Lock()
	for _, lease := range told {
		if s.held[lease] == nil {
			gone = append(gone, lease)
		}
	}
	s.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	_, err := s.run(ctx, releaseScript, gone...)
	return err
}

// rightful divides leases into those that are held, and those that expired.
func (s *State) rightful(leases []string, now time.Time) (held, expired []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, lease := range leases {
		if h := s.held[lease]; h != nil && now.Before(h.until) {
			held = append(held, lease)
		} else {
			expired = append(expired, lease)
		}
	}
	return held, expired
}

func (s *State) placeOf(lease string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[lease]; h != nil {
		return h.place
	}
	return ""
}
