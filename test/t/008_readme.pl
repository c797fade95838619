# 008_readme.pl - every ```sql block of README.md runs, in the order of the page, in
# one database that has an executions table with old rows of each tenant the page names.
#
# A comment <!-- test: new database --> before a block starts again with a database
# of that kind, for a page that shows two ways to the same end.  Nothing is skipped.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $readme = PostgreSQL::Test::Utils::slurp_file("$FindBin::RealBin/../../README.md");

# The blocks: [line number, wants a new database, text].
my @blocks;
{
	my ($line, $fresh, $block) = (0, 0);

	foreach my $text (split /\n/, $readme)
	{
		$line++;
		if (defined $block)
		{
			if ($text =~ /^\s*```\s*$/)
			{
				push @blocks, $block;
				undef $block;
				$fresh = 0;
			}
			else
			{
				$block->[2] .= "$text\n";
			}
		}
		elsif ($text =~ /^\s*```\s*sql\s*$/i)
		{
			$block = [ $line + 1, $fresh, '' ];
		}
		elsif ($text =~ /^\s*```\s*sql/i)
		{
			fail("line $line: a sql block has no options: $text");
		}
		elsif ($text =~ /^<!-- test: (.*) -->\s*$/)
		{
			is($1, 'new database', "line $line: the test knows the comment");
			$fresh = 1;
		}
	}
	ok(!defined $block, 'every block ends');
}
cmp_ok(scalar(@blocks), '>', 0, 'README.md has ' . @blocks . ' sql blocks');

# pg_cron lives in one database of a server.
my @cron = have_library('pg_cron')
  ? ("shared_preload_libraries = 'pg_cron'", "cron.database_name = 'readme'",
	'cron.use_background_workers = on')
  : ();
my $node = start_node('readme', @cron);
my %seen;
my @tenants = grep { !$seen{$_}++ }
  map { lc } $readme =~ /'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'/gi;

sub new_database
{
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS readme WITH (FORCE)');
	$node->safe_psql('postgres', 'CREATE DATABASE readme');
	my $first = 1;
	my $sql = executions_table();

	foreach my $tenant (@tenants)
	{
		$sql .= fill_tenant($tenant, 500, newest => 400, first => $first)
		  . fill_tenant($tenant, 500, first => $first + 500);
		$first += 1000;
	}
	$node->safe_psql('readme', $sql);
	return;
}

new_database();
foreach my $block (@blocks)
{
	my ($line, $fresh, $sql) = @$block;

	new_database() if $fresh;
	my ($rc, $out, $err) = $node->psql('readme', $sql);
	is($rc, 0, "README.md line $line runs")
	  or diag("$sql\n$err");
}

$node->stop;
done_testing();
