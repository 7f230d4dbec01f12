package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
)

func usersCommand(endpoint Endpoint) *cobra.Command {
	users, c := adminCommand(endpoint, "users [list]", "Lists, adds and changes users")
	users.Long = "Lists, adds and changes users. Those of the config are listed and credited here, and changed there."
	list := func(cmd *cobra.Command, _ []string) error {
		return ask(cmd, c, http.MethodGet, "users", nil, printUsers)
	}
	users.Args, users.RunE = cobra.NoArgs, list
	users.AddCommand(
		&cobra.Command{Use: "list", Short: "Lists the users", Args: cobra.NoArgs, RunE: list},
		addUserCommand(c),
		&cobra.Command{Use: "show <name>", Short: "Shows a user and their subscriptions", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return ask(cmd, c, http.MethodGet, pathOf("users", args[0]), nil, printUser)
			}},
		switchUserCommand(c, "disable <name>", "Refuses a user's requests from now on", true),
		switchUserCommand(c, "enable <name>", "Lets a disabled user in again", false),
		&cobra.Command{Use: "remove <name>", Short: "Removes a user, their keys and subscriptions, and takes the rest of the balance; records stay", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return ask(cmd, c, http.MethodDelete, pathOf("users", args[0]), nil, func(out io.Writer, u admin.User) {
					fmt.Fprintf(out, "user %s is removed; the balance was %s\n", u.Name, billing.ShortUSD(u.Balance))
				})
			}},
		creditCommand(c),
		subscribeCommand(c),
		&cobra.Command{Use: "unsubscribe <name> <group>", Short: "Ends a user's subscription", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return ask(cmd, c, http.MethodDelete, pathOf("users", args[0], "subscriptions", args[1]), nil, func(out io.Writer, s admin.Subscription) {
					fmt.Fprintf(out, "user %s is no longer subscribed to %s\n", args[0], s.Group)
				})
			}},
	)
	return users
}

func addUserCommand(c *adminClient) *cobra.Command {
	var balance string
	var concurrency int
	cmd := &cobra.Command{Use: "add <name> [--balance 5] [--concurrency 5]", Short: "Adds a user", Args: cobra.ExactArgs(1)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]any{"name": args[0], "balance_usd": balance, "concurrency": concurrency}
		return ask(cmd, c, http.MethodPost, "users", body, printUser)
	}
	cmd.Flags().StringVar(&balance, "balance", "0", "The opening balance, in US dollars")
	cmd.Flags().IntVar(&concurrency, "concurrency", admin.DefaultConcurrency, "How many requests may be in flight; 0 = no limit")
	return cmd
}

func switchUserCommand(c *adminClient, use, short string, disabled bool) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return ask(cmd, c, http.MethodPatch, pathOf("users", args[0]), map[string]any{"disabled": disabled}, func(out io.Writer, u admin.User) {
			fmt.Fprintf(out, "user %s is %s\n", u.Name, accountState(u))
		})
	}}
}

func creditCommand(c *adminClient) *cobra.Command {
	var note, id string
	cmd := &cobra.Command{
		Use: "credit <name> <amount> [--note …] [--id …]", Short: "Puts US dollars on a user's balance; a negative amount takes them",
		DisableFlagParsing: true, // see negativeAmounts
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args, err := negativeAmounts(cmd, args)
		if err != nil {
			return err
		}
		if help, _ := cmd.Flags().GetBool("help"); help {
			return cmd.Help()
		}
		if err := cobra.ExactArgs(2)(cmd, args); err != nil {
			return err
		}
		if id == "" {
			id = uuid.NewString()
		}
		body := map[string]any{"amount_usd": args[1], "note": note, "id": id}
		err = ask(cmd, c, http.MethodPost, pathOf("users", args[0], "credit"), body, func(out io.Writer, v admin.CreditGiven) {
			if !v.Credited {
				fmt.Fprintf(out, "nothing changed: a credit of the id %s was there before; ", printable(id))
			}
			fmt.Fprintf(out, "the balance of %s is %s\n", args[0], billing.ShortUSD(v.Balance))
		})
		if failure, ok := errors.AsType[*adminFailure](err); ok && failure.doubtful {
			return fmt.Errorf("%w; it may have been credited all the same: repeat it with --id %s, which credits once", err, printable(id))
		}
		return err
	}
	cmd.Flags().StringVar(&note, "note", "", "What the credit is for")
	cmd.Flags().StringVar(&id, "id", "", "The credit's id; the same one twice credits once")
	return cmd
}

// negativeAmounts parses a command's flags and returns its arguments; an amount
// such as -5 is one, where the flags' own parser takes it for a flag.
func negativeAmounts(cmd *cobra.Command, args []string) ([]string, error) {
	const mark = "\x00" // no argument can have one
	args = slices.Clone(args)
	for i, arg := range args {
		if digits, ok := strings.CutPrefix(arg, "-"); !ok || digits == "" || !strings.ContainsAny(digits[:1], ".0123456789") {
			continue
		}
		if i > 0 {
			// It may be what a flag before it is set to.
			word, long := strings.CutPrefix(args[i-1], "--")
			if f := cmd.Flag(word); long && f != nil && f.NoOptDefVal == "" {
				continue
			}
		}
		args[i] = mark + arg
	}
	cmd.DisableFlagParsing = false
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	args = cmd.Flags().Args()
	for i, arg := range args {
		args[i] = strings.TrimPrefix(arg, mark)
	}
	return args, nil
}

func subscribeCommand(c *adminClient) *cobra.Command {
	var until string
	cmd := &cobra.Command{Use: "subscribe <name> <group> [--until 2027-01-01]", Short: "Subscribes a user to a group that has limits, or changes the end of the subscription", Args: cobra.ExactArgs(2)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := map[string]any{}
		if cmd.Flags().Changed("until") {
			body["until"] = until
		}
		return ask(cmd, c, http.MethodPut, pathOf("users", args[0], "subscriptions", args[1]), body, func(out io.Writer, s admin.Subscription) {
			printSubscriptions(out, []admin.Subscription{s})
		})
	}
	cmd.Flags().StringVar(&until, "until", "", "When it ends: RFC 3339, or a date for "+dateMeans+"; without it, never")
	return cmd
}

func accountState(u admin.User) string {
	if u.Disabled {
		return "disabled"
	}
	return "enabled"
}

func printUsers(out io.Writer, users []admin.User) {
	t := table(out, "NAME", "SOURCE", "STATE", "BALANCE", "HELD", "IN USE", "CONCURRENCY", "WAITING", "SUBSCRIPTIONS")
	for _, u := range users {
		var groups []string
		for _, s := range u.Subscriptions {
			groups = append(groups, s.Group)
		}
		tableRow(t, u.Name, u.Source, accountState(u), billing.ShortUSD(u.Balance), u.Held.Short(), strconv.Itoa(u.InUse),
			concurrencyText(u.Concurrency), strconv.Itoa(u.Waiting), strings.Join(groups, ","))
	}
	t.Flush()
}

func concurrencyText(n int) string {
	if n == 0 {
		return "no limit"
	}
	return strconv.Itoa(n)
}

func printUser(out io.Writer, u admin.User) {
	printUsers(out, []admin.User{u})
	if len(u.Subscriptions) > 0 {
		fmt.Fprintln(out)
		printSubscriptions(out, u.Subscriptions)
	}
}

func printSubscriptions(out io.Writer, all []admin.Subscription) {
	t := table(out, "GROUP", "SOURCE", "UNTIL", "WINDOW", "USED", "LIMIT", "ENDS")
	for _, s := range all {
		for _, w := range []struct {
			name string
			admin.Window
		}{{"daily", s.Windows.Daily}, {"weekly", s.Windows.Weekly}, {"monthly", s.Windows.Monthly}} {
			tableRow(t, s.Group, s.Source, timeOr("never", s.Until), w.name, w.Used.Short(), dollarsOr("none", w.Limit), timeOr("not begun", w.End))
		}
	}
	t.Flush()
}
