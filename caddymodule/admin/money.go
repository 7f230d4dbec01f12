package admin

import (
	"cmp"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

// Longest texts of a credit, in bytes.
const (
	maxCreditNote = 1000
	maxCreditID   = 200
)

// CreditGiven is the answer to a credit.
type CreditGiven struct {
	Balance string `json:"balance_usd"` // the new one, or unlimited
	// Credited is false if a credit of that id was there before.
	Credited bool `json:"credited"`
}

// creditUser answers POST users/{name}/credit.
func creditUser(c *call) error {
	var body struct {
		Amount billing.USD `json:"amount_usd"`
		Note   string      `json:"note"`
		ID     string      `json:"id"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if err := cmp.Or(checkText("note", body.Note, maxCreditNote), checkText("id", body.ID, maxCreditID)); err != nil {
		return err
	}
	if body.Amount == 0 || body.Amount > config.MaxBalance || body.Amount < -config.MaxBalance {
		return refuse(http.StatusBadRequest, "amount_usd: %s is not an amount to credit; write US dollars up to a billion, such as 20, or -5 to take some", body.Amount)
	}
	profile, err := c.store.profile(c.ctx, c.r.PathValue("name"))
	if err != nil {
		return err
	}
	credit := billing.Credit{ID: cmp.Or(body.ID, uuid.NewString()), Amount: body.Amount, Note: body.Note, Time: time.Now().UTC()}
	balance, credited, err := c.store.ledger.Credit(c.ctx, profile.Name, credit)
	if err != nil {
		return err
	}
	c.store.Freed(profile.Name)
	return c.answer(CreditGiven{c.store.balanceText(profile.Name, balance), credited})
}

func checkText(word, text string, most int) error {
	if len(text) > most || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return refuse(http.StatusBadRequest, "%s: it is over %d bytes, or has a line break or another control character", word, most)
	}
	return nil
}

// subscribe answers PUT users/{name}/subscriptions/{group}.
func subscribe(c *call) error {
	var body struct {
		Until *string `json:"until"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	name := c.r.PathValue("group")
	limited := func(g *gateway.Group) bool { return g.Subscription }
	switch g := c.store.group(name); {
	case g == nil:
		return refuse(http.StatusBadRequest, "%.80q is not a group of the config; those with limits are: %s", name, c.store.groupList(limited))
	case !limited(g):
		return refuse(http.StatusBadRequest, "group %s has no limits, so there is nothing to subscribe to; those with limits are: %s", name, c.store.groupList(limited))
	}
	until, err := c.bodyMoment("until", body.Until)
	if err != nil {
		return err
	}
	profile, err := c.undeclaredSubscription()
	if err != nil {
		return err
	}
	if err := c.store.ledger.Subscribe(c.ctx, profile.Name, name, until); err != nil {
		return err
	}
	made, err := c.store.ledger.Subscription(c.ctx, profile.Name, name)
	if err != nil {
		return err
	}
	return c.answer(c.store.subscription(name, made.Until, made.Windows, billing.SourceAPI))
}

// unsubscribe answers DELETE users/{name}/subscriptions/{group} with the
// subscription as it was.
func unsubscribe(c *call) error {
	profile, err := c.undeclaredSubscription()
	if err != nil {
		return err
	}
	name := c.r.PathValue("group")
	had, err := c.store.ledger.Subscription(c.ctx, profile.Name, name)
	if err != nil {
		return err
	}
	if err := c.store.ledger.Unsubscribe(c.ctx, profile.Name, name); errors.Is(err, billing.ErrNotSubscribed) {
		return refuse(http.StatusNotFound, "user %s has no subscription of %.80q", profile.Name, name)
	} else if err != nil {
		return err
	}
	return c.answer(c.store.subscription(name, had.Until, had.Windows, billing.SourceAPI))
}

// undeclaredSubscription returns the user whose subscription is to be changed,
// unless it is the config's.
func (c *call) undeclaredSubscription() (billing.Profile, error) {
	user, group := c.r.PathValue("name"), c.r.PathValue("group")
	if _, ok := c.store.declaredSubscriptions(user)[group]; ok {
		return billing.Profile{}, refuse(http.StatusConflict, "the config subscribes user %s to %s; change the config and reload it", user, group)
	}
	return c.store.profile(c.ctx, user)
}
