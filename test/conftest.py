import pytest

# `make test` runs two workers. Nodes exchange images at a rate that two sets of them would not keep on two cores, so
# all of test/ros goes to one worker; the other takes the core's files one by one.
ROS = "ros"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not config.pluginmanager.hasplugin("xdist"):  # as in a ROS workspace: one process
        return
    for item in items:
        group = ROS if item.path.parent.name == ROS else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
