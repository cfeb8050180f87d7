"""What a release would hold, and whether it may go out: `make release-check` and `make audit`.

    python -m tools.release check                   every check; what is made lies in build/release
    python -m tools.release audit                   advisories against every pin (needs the network)
    python -m tools.release audit --service pypi

A check returns sentences, one for each thing that is wrong, and none if all is well. What could not
be looked at is wrong too: nothing here passes unseen. `checkout` has what was not committed,
`distributions` wheel and sdist, `packaged` the charts, the changelog and the one version, `bills`
what each image holds, `licences` under which terms, `advisories` what is known against it. It must
not upload or publish anything.
"""
