package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
)

func accountsCommand(endpoint Endpoint) *cobra.Command {
	accounts, c := adminCommand(endpoint, "accounts [list]", "Lists, pauses and resets upstream accounts")
	list := func(cmd *cobra.Command, _ []string) error {
		return ask(cmd, c, http.MethodGet, "accounts", nil, printAccounts)
	}
	accounts.Args, accounts.RunE = cobra.NoArgs, list
	accounts.AddCommand(
		&cobra.Command{Use: "list", Short: "Lists the accounts, how they stand, and why", Args: cobra.NoArgs, RunE: list},
		actOnAccountCommand(c, "pause", "Sends no new requests to an account until it is resumed; those in flight go on"),
		actOnAccountCommand(c, "resume", "Ends a pause"),
		actOnAccountCommand(c, "reset", "Ends now what keeps an account out or puts it last: limits, marks and errors, but no pause"),
	)
	return accounts
}

func actOnAccountCommand(c *adminClient, act, short string) *cobra.Command {
	return &cobra.Command{Use: act + " <name>", Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return ask(cmd, c, http.MethodPost, pathOf("accounts", args[0], act), nil, func(out io.Writer, a admin.Account) {
			text := "account " + a.Name + " is " + a.State
			if a.StateUntil != nil {
				text += " until " + timeOr("", a.StateUntil)
			}
			if a.Reason != nil {
				text += ": " + *a.Reason
			}
			fmt.Fprintln(out, printable(text))
		})
	}}
}

// printAccounts prints a row for each account, and below it, indented, what there
// is to say of how it stands.
func printAccounts(out io.Writer, accounts []admin.Account) {
	var rows bytes.Buffer
	t := table(&rows, "NAME", "PLATFORM", "TYPE", "GROUPS", "PRIORITY", "IN USE", "CONCURRENCY", "WAITING", "STATE", "UNTIL", "LAST USED", "MODELS")
	for _, a := range accounts {
		tableRow(t, a.Name, a.Platform, a.Type, strings.Join(a.Groups, ","), strconv.Itoa(a.Priority), strconv.Itoa(a.InUse),
			concurrencyText(a.Concurrency), strconv.Itoa(a.Waiting), a.State, timeOr("", a.StateUntil), timeOr("", a.LastUsed),
			cmp.Or(strings.Join(a.Models, ","), "all"))
	}
	t.Flush()
	lines := strings.SplitAfter(rows.String(), "\n")
	io.WriteString(out, lines[0])
	for i, a := range accounts {
		io.WriteString(out, lines[i+1])
		for _, detail := range accountDetails(&a) {
			fmt.Fprintln(out, "  "+printable(detail))
		}
	}
}

// details are what a table has no room for.
func accountDetails(a *admin.Account) (lines []string) {
	if a.Reason != nil && a.StateUntil == nil { // else a mark says the same
		line := *a.Reason
		if a.ErrorNextTry != nil {
			line += "; asked again at " + timeOr("", a.ErrorNextTry)
		}
		lines = append(lines, line)
	}
	for _, m := range a.Marks {
		lines = append(lines, m.Scope+" until "+timeOr("", &m.Until)+": "+m.Reason)
	}
	for _, w := range a.Windows {
		line := "window " + w.Name + " " + w.Status
		if w.Utilization != nil {
			line += fmt.Sprintf(", %.0f %% used", *w.Utilization*100)
		}
		if w.End != nil {
			line += ", ends " + timeOr("", w.End)
		}
		lines = append(lines, line)
	}
	return lines
}
