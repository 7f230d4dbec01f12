package admin

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

// DefaultConcurrency is that of an added user.
const DefaultConcurrency = 5

// User is a user as the admin API shows them.
type User struct {
	Name          string         `json:"name"`
	Source        string         `json:"source"`
	Balance       string         `json:"balance_usd"` // or unlimited
	Held          billing.USD    `json:"held_usd"`
	Concurrency   int            `json:"concurrency"`
	InUse         int            `json:"in_use"`
	Waiting       int            `json:"waiting"`
	Disabled      bool           `json:"disabled"`
	Subscriptions []Subscription `json:"subscriptions"`
}

// Subscription is a subscription as the admin API shows it.
type Subscription struct {
	Group   string     `json:"group"`
	Until   *time.Time `json:"until"` // null = it does not end
	Windows Windows    `json:"windows"`
	Source  string     `json:"source"`
}

type Windows struct {
	Daily   Window `json:"daily"`
	Weekly  Window `json:"weekly"`
	Monthly Window `json:"monthly"`
}

// Window has no Start and End before its first use, and no Limit where the
// group has none.
type Window struct {
	Start *time.Time   `json:"start"`
	End   *time.Time   `json:"end"`
	Used  billing.USD  `json:"used_usd"`
	Limit *billing.USD `json:"limit_usd"`
}

// view is what is known of a user.
func (s *adminStore) view(ctx context.Context, p billing.Profile) (User, error) {
	load, err := s.State.Load(ctx, scheduler.UserPlace(p.Name))
	if err != nil {
		return User{}, err
	}
	subscriptions, err := s.subscriptions(ctx, p)
	if err != nil {
		return User{}, err
	}
	v := User{
		Name: p.Name, Source: billing.SourceAPI, Balance: s.balanceText(p.Name, p.Balance), Held: p.Balance.Held,
		Concurrency: p.Concurrency, Disabled: p.Disabled,
		InUse: load.InUse, Waiting: load.Waiting, Subscriptions: subscriptions,
	}
	if declared := s.declared(p.Name); declared != nil {
		v.Source, v.Concurrency, v.Disabled = billing.SourceConfig, declared.Concurrency, false
	}
	return v, nil
}

// balanceText is a user's balance, or that the config declares none.
func (s *adminStore) balanceText(user string, b billing.Balance) string {
	if declared := s.declared(user); declared != nil && declared.Unlimited {
		return config.Unlimited
	}
	return b.Amount.String()
}

// subscriptions are those of the config and those made here, in order of group.
func (s *adminStore) subscriptions(ctx context.Context, p billing.Profile) ([]Subscription, error) {
	all := []Subscription{}
	declared := s.declaredSubscriptions(p.Name)
	for group, until := range declared {
		kept, err := s.ledger.Subscription(ctx, p.Name, group)
		if err != nil {
			return nil, err
		}
		all = append(all, s.subscription(group, until, kept.Windows, billing.SourceConfig))
	}
	for _, kept := range p.Subscriptions {
		if _, ok := declared[kept.Group]; !ok {
			all = append(all, s.subscription(kept.Group, kept.Until, kept.Windows, billing.SourceAPI))
		}
	}
	slices.SortFunc(all, func(a, b Subscription) int { return strings.Compare(a.Group, b.Group) })
	return all, nil
}

func (s *adminStore) subscription(name string, until time.Time, windows billing.Windows, source string) Subscription {
	var limits billing.Limits
	if g := s.group(name); g != nil {
		limits = g.Limits
	}
	windows = windows.At(time.Now())
	view := func(span billing.Span) Window {
		w := windows[span]
		return Window{momentView(w.Start), momentView(w.End), w.Used, limitView(limits[span])}
	}
	return Subscription{
		Group: name, Until: momentView(until), Source: source,
		Windows: Windows{view(billing.Daily), view(billing.Weekly), view(billing.Monthly)},
	}
}

// momentView is nil for the zero time.
func momentView(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

// limitView is nil for no limit.
func limitView(limit billing.USD) *billing.USD {
	if limit == 0 {
		return nil
	}
	return &limit
}

// listUsers answers GET users.
func listUsers(c *call) error {
	profiles, err := c.store.profiles(c.ctx)
	if err != nil {
		return err
	}
	views := make([]User, 0, len(profiles))
	for _, p := range profiles {
		v, err := c.store.view(c.ctx, p)
		if err != nil {
			return err
		}
		views = append(views, v)
	}
	return c.answer(views)
}

// answerUser answers with a user as they are now.
func (c *call) answerUser(name string) error {
	profile, err := c.store.profile(c.ctx, name)
	if err != nil {
		return err
	}
	v, err := c.store.view(c.ctx, profile)
	if err != nil {
		return err
	}
	return c.answer(v)
}

// showUser answers GET users/{name}.
func showUser(c *call) error { return c.answerUser(c.r.PathValue("name")) }

// addUser answers POST users.
func addUser(c *call) error {
	var body struct {
		Name        string      `json:"name"`
		Balance     billing.USD `json:"balance_usd"`
		Concurrency *int        `json:"concurrency"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	concurrency := DefaultConcurrency
	if body.Concurrency != nil {
		concurrency = *body.Concurrency
	}
	if err := config.VetName(body.Name); err != nil {
		return refuse(http.StatusBadRequest, "name: %.80q can't be used: it %w", body.Name, err)
	}
	switch {
	case body.Balance < 0 || body.Balance > config.MaxBalance:
		return refuse(http.StatusBadRequest, "balance_usd: %s is out of range; write US dollars between 0 and a billion", body.Balance)
	case c.store.declared(body.Name) != nil:
		return refuse(http.StatusConflict, "the config has user %s already; choose another name", body.Name)
	}
	if err := checkConcurrency(concurrency); err != nil {
		return err
	}
	user := billing.User{Name: body.Name, Balance: body.Balance, Concurrency: concurrency}
	if err := c.store.ledger.AddUser(c.ctx, user); errors.Is(err, billing.ErrUserExists) {
		return refuse(http.StatusConflict, "there is a user %s already", body.Name)
	} else if err != nil {
		return err
	}
	return c.answerUser(body.Name)
}

func checkConcurrency(n int) error {
	if n < 0 || n > config.MaxConcurrency {
		return refuse(http.StatusBadRequest, "concurrency: %d is out of range; write a number between 0, which is no limit, and %d", n, config.MaxConcurrency)
	}
	return nil
}

// added refuses to change what is the config's.
func (c *call) added(name string) (billing.Profile, error) {
	if c.store.declared(name) != nil {
		return billing.Profile{}, refuse(http.StatusConflict, "user %s is the config's; change the config and reload it", name)
	}
	return c.store.profile(c.ctx, name)
}

// changeUser answers PATCH users/{name}.
func changeUser(c *call) error {
	name := c.r.PathValue("name")
	if _, err := c.added(name); err != nil {
		return err
	}
	var body struct {
		Concurrency *int  `json:"concurrency"`
		Disabled    *bool `json:"disabled"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Concurrency == nil && body.Disabled == nil {
		return refuse(http.StatusBadRequest, "the body changes nothing; write concurrency or disabled")
	}
	if body.Concurrency != nil {
		if err := checkConcurrency(*body.Concurrency); err != nil {
			return err
		}
	}
	if err := c.store.ledger.ChangeUser(c.ctx, name, billing.UserChange{Concurrency: body.Concurrency, Disabled: body.Disabled}); err != nil {
		return err
	}
	return c.answerUser(name)
}

// removeUser answers DELETE users/{name} with the user as they were.
func removeUser(c *call) error {
	profile, err := c.added(c.r.PathValue("name"))
	if err != nil {
		return err
	}
	v, err := c.store.view(c.ctx, profile)
	if err != nil {
		return err
	}
	if err := c.store.ledger.RemoveUser(c.ctx, profile.Name); err != nil {
		return err
	}
	return c.answer(v)
}
